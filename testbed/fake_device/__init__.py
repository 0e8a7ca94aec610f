"""A CUDA device that computes nothing, and counts of what a real one would be asked to do."""
