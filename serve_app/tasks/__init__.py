"""Tasks: records and rules, no SQL."""
