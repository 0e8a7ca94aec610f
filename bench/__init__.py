"""Benchmarks: each prints its figures with the hardware they were taken on."""
