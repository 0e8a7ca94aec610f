#!/usr/bin/env python3
"""Show what a running service is doing, through its local API: python scripts/check_status.py [TASK_ID]."""

from service_client import Service, parser, show

ROOT = "/v1/local/video/generate"

if __name__ == "__main__":
    command_line = parser(__doc__)
    command_line.add_argument("task_id", nargs="?", help="show this task, too")
    arguments = command_line.parse_args()
    service = Service(arguments.url)
    show(service.get(f"{ROOT}/service_status"))
    show(service.get(f"{ROOT}/get_all_tasks"))
    if arguments.task_id:
        show(service.post(f"{ROOT}/task_status", {"task_id": arguments.task_id}))
