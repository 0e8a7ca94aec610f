"""The HTTP surfaces: thin translations in front of one task service."""
