"""The model replica: loads an engine and runs one task at a time on it."""
