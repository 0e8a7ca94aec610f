"""In the place of a node's agents: says that it has none of their ports, and stays as long as the raylet.

A raylet starts two, one for metrics and the dashboard and one for environments of tasks, and waits
until they have told their ports. Each imports much of Ray; this runs in a Python that imports nothing.
"""

import os
import select
import sys

PORTS = {
    "agent.py": ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port"),
    "main.py": ("runtime_env_agent_port",),
}
"""The names of their ports by the last part of their programs' paths."""
NONE = "-1"
"""What Ray's own say of a port that they do not have."""


def main(program: str, *arguments: str) -> None:
    """Do what a raylet waits for, then wait for its end."""
    told = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    for name in PORTS[os.path.basename(program)]:
        path = os.path.join(told["--session-dir"], f"{name}_{told['--node-id']}")
        with open(f"{path}.new", "w") as file:
            file.write(NONE)
        os.rename(f"{path}.new", path)
    select.select([os.pidfd_open(os.getppid())], [], [])


if __name__ == "__main__":
    main(*sys.argv[1:])
