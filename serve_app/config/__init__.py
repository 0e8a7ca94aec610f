"""The configuration: typed, checked before a start."""
