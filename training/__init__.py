"""Training of the demo model: ``scripts/train_demo_model``."""
