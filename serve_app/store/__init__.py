"""The task store: all SQL."""
