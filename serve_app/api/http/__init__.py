"""What every surface stands on: keys, bodies, refusals, the API document."""
