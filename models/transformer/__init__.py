"""The forward pass of the transformer."""
