"""The launch of a configuration with ``serve run``, with the requested port and replicas.

By itself, ``serve run`` kills everything on SIGTERM without a drain, and keeps running with nothing to serve
when the application could not start.

Ray reads its environment variables once, on import: this module imports Ray, and modules that import Ray,
only after setting those variables.
"""

import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import Any

import yaml

from models.errors import first_line
from serve_app.config.ray_environment import ray_environment
from serve_app.launch.announcements import Announcements
from serve_app.launch.launch_config import LaunchConfig, LaunchError, is_for_this_machine
from serve_app.launch.proxy_folder import proxy_folder
from serve_app.launch.stop_signals import StopSignals

_SHUTDOWN_S = 8
"""Seconds that Ray has to end its processes in the proper order."""
_OBJECT_STORE = 500_000_000
"""Bytes of Ray's object store, as in the pods. Ray would take 30 % of the memory, which a container's
``/dev/shm`` may not have.
"""


def launch(
    path: Path,
    *,
    port: int | None = None,
    replicas: int | None = None,
    has_dashboard: bool = True,
    as_json: bool = False,
) -> int:
    """Serve the configuration file until a signal; return the exit status. The dashboard is Ray's.

    0: stopped by a signal. 1: could not start. 2: the configuration is invalid. A failure prints one sentence
    to standard error.
    """
    announce = Announcements(as_json)
    stop_signals = StopSignals()
    stop_signals.listen()
    try:
        with ExitStack() as held:
            if as_json:
                held.enter_context(redirect_stdout(sys.stderr))  # what Ray prints
            if not os.environ.get("RAY_ADDRESS"):
                variables = ray_environment(is_for_this_machine=is_for_this_machine(path))
                for name, value in {**variables, **held.enter_context(proxy_folder())}.items():
                    os.environ.setdefault(name, value)
            from serve_app.config import preflight

            if status := preflight.report(path):
                return status
            config = LaunchConfig.read(path, port=port, replicas=replicas)
            if config.warning:
                print(config.warning, file=sys.stderr, flush=True)
            from serve_app.launch.stores import held_stores

            held.enter_context(held_stores(config.document))
            config.require_free_port()  # which an earlier service may have held until now
            return _serve(config, stop_signals, announce, has_dashboard=has_dashboard)
    except KeyboardInterrupt:
        return 0
    except LaunchError as error:
        announce.failed(str(error))
        return 1


def _serve(
    config: LaunchConfig,
    stop_signals: StopSignals,
    announce: Announcements,
    *,
    has_dashboard: bool,
) -> int:
    """Serve until a signal (returns 0) or a failed start (returns 1). Raises ``LaunchError``."""
    import click
    import ray
    from ray import serve
    from ray._private.node import Node

    from serve_app.launch.drain import drain
    from serve_app.launch.startup import Startup

    try:
        # The output of Ray's processes stays in Ray's logs: in the terminal it would bury our own messages.
        # So nobody is there to whom Ray's log monitor, which reads all logs, could tell what is new.
        setattr(Node, "start_log_monitor", lambda _node: None)  # noqa: B010 (mypy lets no method be assigned)
        # Without an address Ray joins any cluster that was ever started on this machine.
        own = not os.environ.get("RAY_ADDRESS")
        cluster = ray.init(
            "local" if own else None,
            namespace="serve",
            log_to_driver=False,
            include_dashboard=has_dashboard if own else None,
            object_store_memory=_OBJECT_STORE if own else None,
        )
    except ConnectionError as error:
        raise LaunchError(f"There is no Ray cluster at {os.environ.get('RAY_ADDRESS')}: {error}") from None
    except SystemExit:  # raised by Ray's own SIGTERM handler after its cleanup
        return 0
    stop_signals.listen()  # in place of Ray's handler
    startup = Startup(config.url, cluster.dashboard_url, stop_signals, announce)
    startup.start()
    try:
        _deploy(config.document)
        while True:
            signal.pause()
    except (ray.exceptions.RayError, TimeoutError) as error:  # before anything was deployed
        raise LaunchError(f"Ray Serve could not start: {first_line(error)}") from None
    except SystemExit:  # ``serve run`` has printed an error and shut Serve down
        _end_within_limit(stop_signals)
    except (KeyboardInterrupt, click.Abort):
        if not startup.failed:
            drain(config.drain_s, announce, was_ready=startup.was_ready)
        _end_within_limit(stop_signals)
        serve.shutdown()
    ray.shutdown()
    return 0 if stop_signals.stopping and not startup.failed else 1


def _deploy(document: Mapping[str, Any]) -> None:
    """Deploy what a configuration describes. Its copy, which may hold keys, is gone once Serve has it."""
    from ray.serve.scripts import cli

    with tempfile.NamedTemporaryFile("w", prefix="wan-serve-", suffix=".yaml") as file:
        yaml.safe_dump(document, file)
        file.flush()
        cli.main(["run", "--non-blocking", file.name], standalone_mode=False)


def _end_within_limit(stop_signals: StopSignals) -> None:
    """Ignore further signals, and have this process end soon: what it leaves behind, its supervisor ends."""
    stop_signals.ignore()
    signal.alarm(_SHUTDOWN_S)
