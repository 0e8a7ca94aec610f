"""The demo model: a Wan model of a few million parameters in the real folder layout."""
