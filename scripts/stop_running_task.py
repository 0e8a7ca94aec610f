#!/usr/bin/env python3
"""Stop the task that runs now; the service stays up: python scripts/stop_running_task.py [--url URL]."""

from service_client import Service, parser, show

if __name__ == "__main__":
    service = Service(parser(__doc__).parse_args().url)
    show(service.get("/v1/local/video/generate/stop_running_task"))
