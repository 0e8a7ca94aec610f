"""The command line ``wan-serve``: the commands of a client, and those that serve."""
