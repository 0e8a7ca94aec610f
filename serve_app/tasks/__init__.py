"""Records of tasks and rules about them, without SQL."""
