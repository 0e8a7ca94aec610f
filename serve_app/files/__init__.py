"""The files of the service: where they lie, and how they survive a power cut."""
