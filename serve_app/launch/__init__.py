"""The launcher of ``wan-serve run``: Ray Serve on a configuration, until a signal."""
