"""The launcher of ``wan-serve serve``: Ray Serve on a configuration, until a signal."""
