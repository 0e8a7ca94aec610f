"""The coordinator: which task is run when, and what becomes of it."""
