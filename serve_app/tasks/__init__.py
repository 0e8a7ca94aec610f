"""Tasks: what they are, which moves they may make, and the store that keeps them. No Ray, no HTTP, no torch."""
