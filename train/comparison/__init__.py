"""Many runs beside each other: campaigns, the statistics of their seeds, their pictures."""
