"""Attention: its kernels, and the sequence cut among ranks."""
