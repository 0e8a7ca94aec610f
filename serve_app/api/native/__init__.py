"""The native surface, ``/v1/tasks`` and ``/v1/service``."""
