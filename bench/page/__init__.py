"""What the report says: one suite's rows -> claims, tables and figures."""
