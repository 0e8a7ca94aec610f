"""Where weights lie and what is in them."""
