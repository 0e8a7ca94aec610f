"""The service's files: their places on the disk, and durable writes."""
