"""What an operator deploys, and what writes the parts of it that are many."""
