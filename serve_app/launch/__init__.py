"""What ``scripts/serve`` and ``wan-serve run`` become: Ray Serve on a configuration, until a signal."""
