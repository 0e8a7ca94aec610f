"""Fused operations of the transformer: what a block does between its matrix products and attention."""
