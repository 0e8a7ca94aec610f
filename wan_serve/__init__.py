"""The Python client of a running service; it needs nothing but httpx."""
