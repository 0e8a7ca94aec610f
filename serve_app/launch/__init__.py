"""The launcher behind ``scripts/serve`` and ``wan-serve run``: Ray Serve on a configuration, until a
signal.
"""
