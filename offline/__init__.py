"""Offline generation: one video from the command line, without the service."""
