"""The transformer: its forward pass, the placement of its weights and the step cache."""
