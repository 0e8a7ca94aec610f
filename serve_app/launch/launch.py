"""``serve run`` on a configuration, with the port and the replicas asked for.

Left to itself, ``serve run`` tears everything down hard on SIGTERM, and stays up with nothing to serve when
the application could not start.

Ray reads its environment once, when it is imported: this module imports it, and whatever imports it, only
after it has set that environment.
"""

import os
import signal
import sys
import tempfile
from pathlib import Path

import yaml

from serve_app.config.ray_environment import ray_environment
from serve_app.launch.launch_config import LaunchConfig, LaunchError
from serve_app.launch.stop_signals import StopSignals


def launch(path: Path, *, port: int | None = None, replicas: int | None = None) -> int:
    """Serve the configuration file until a signal; the exit status.

    0: stopped by a signal. 1: could not start. 2: the configuration is wrong. Each with one sentence on
    standard error.
    """
    stop_signals = StopSignals()
    stop_signals.listen()
    if not os.environ.get("RAY_ADDRESS"):
        for name, value in ray_environment().items():
            os.environ.setdefault(name, value)
    try:
        from serve_app.config import preflight

        if status := preflight.report(path):
            return status
        config = LaunchConfig.read(path, port=port, replicas=replicas)
        with tempfile.NamedTemporaryFile("w", prefix="wan-serve-", suffix=".yaml") as file:
            yaml.safe_dump(config.document, file)
            file.flush()
            return _serve(file.name, config, stop_signals)
    except KeyboardInterrupt:
        return 0
    except LaunchError as error:
        print(error, file=sys.stderr)
        return 1


def _serve(config_file: str, config: LaunchConfig, stop_signals: StopSignals) -> int:
    """Serve until a signal (0) or a failed start (1)."""
    import click
    import ray
    from ray import serve
    from ray.serve.scripts import cli

    from serve_app.launch.drain import drain
    from serve_app.launch.startup import Startup

    try:
        # What Ray's processes print is in its logs; here it would bury what the user must know.
        cluster = ray.init(namespace="serve", log_to_driver=False)
    except ConnectionError as error:
        raise LaunchError(f"There is no Ray cluster at {os.environ.get('RAY_ADDRESS')}: {error}") from None
    except SystemExit:  # how Ray's own SIGTERM handler leaves, once it has ended what it had started
        return 0
    stop_signals.listen()  # in place of Ray's handler
    startup = Startup(config.url, cluster.dashboard_url, stop_signals)
    startup.start()
    try:
        cli.main(["run", "--non-blocking", config_file], standalone_mode=False)
        while True:
            signal.pause()
    except SystemExit:  # it has shut Serve down on an error that it has printed
        stop_signals.ignore()
    except (KeyboardInterrupt, click.Abort):
        if not startup.failed:
            drain(config.drain_s)
        stop_signals.ignore()
        serve.shutdown()
    ray.shutdown()
    return 0 if stop_signals.stopping and not startup.failed else 1
