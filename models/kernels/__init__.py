"""Fused operations: of a block between its products, in attention, and of the VAE between convolutions."""
