"""Wan video generation on torch and diffusers. Imports neither Ray nor ``serve_app``."""
