"""The report's figures as SVG text, for embedding in a page; one file a concept."""
