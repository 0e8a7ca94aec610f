"""Tasks: what they are, which moves they may make, the store that keeps them. No Ray, HTTP or torch."""
