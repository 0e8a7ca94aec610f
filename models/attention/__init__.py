"""Attention: kernels, kernel choice, cross-attention, sequence parallelism and ring attention."""
