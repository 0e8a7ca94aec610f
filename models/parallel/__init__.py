"""Ranks: how many share one run, and what they say to each other."""
