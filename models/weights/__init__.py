"""Weights: folders, single files and the Hugging Face hub, checked before anything large is read."""
