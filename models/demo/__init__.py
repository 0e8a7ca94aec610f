"""A Wan model of a few million parameters in the real folder layout, made on the spot: no hub, no GPU."""
