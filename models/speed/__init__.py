"""The speed settings, applied to a loaded model."""
