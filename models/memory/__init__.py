"""How much memory a model and a request take, and whether the device has it."""
