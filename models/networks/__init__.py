"""Networks of a model, with the parameters that its folder stores."""
