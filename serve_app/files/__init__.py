"""Where files lie, and how they survive a power cut."""
