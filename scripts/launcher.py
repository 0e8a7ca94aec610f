"""`serve run` on a configuration, with the port and the replicas asked for.

scripts/serve replaces itself by this. Left to itself, `serve run` tears everything down hard on SIGTERM,
and stays up with nothing to serve when the application could not start.
"""

import argparse
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import yaml

from serve_app.config.ray_environment import ray_environment

POLL_S = 0.5
DRAIN_ANSWER_S = 10.0
"""What the coordinator gets beyond the tasks' own time, to answer."""
stopping = threading.Event()


class Unusable(Exception):
    """One sentence for the user, instead of a start."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/serve")
    parser.add_argument("config", type=Path)
    parser.add_argument("--port", type=int, choices=range(1, 65536), metavar="1-65535")
    parser.add_argument("--replicas", type=int, choices=range(1, 1025), metavar="1-1024")
    arguments = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    if not os.environ.get("RAY_ADDRESS"):
        for name, value in ray_environment().items():
            os.environ.setdefault(name, value)
    from serve_app.config import preflight  # imports Ray, which reads its environment then

    try:
        if status := preflight.main([str(arguments.config)]):
            return status
        config = adapted(yaml.safe_load(arguments.config.read_text()), arguments.port, arguments.replicas)
        url = service_url(config)
        with tempfile.NamedTemporaryFile("w", prefix="wan-serve-", suffix=".yaml") as file:
            yaml.safe_dump(config, file)
            file.flush()
            return run(file.name, url, drain_seconds(config))
    except KeyboardInterrupt:
        return 0
    except Unusable as error:
        print(error, file=sys.stderr)
        return 1


def stop(_signal: int, _frame: FrameType | None) -> NoReturn:
    """SIGTERM means what Ctrl-C means."""
    stopping.set()
    raise KeyboardInterrupt


def ignore_signals() -> None:
    """One request to stop is enough: another must not break the shutdown off half-way."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def adapted(config: dict[str, Any], port: int | None, replicas: int | None) -> dict[str, Any]:
    """The configuration with another port or number of replicas."""
    if port:
        config["http_options"] = {**config.get("http_options", {}), "port": port}
    if replicas:
        for application in config["applications"]:
            for model in application.get("args", {}).get("models", []):
                model["replicas"] = replicas
                model.pop("autoscaling", None)
    return config


def service_url(config: dict[str, Any]) -> str:
    """Where the service will answer on this machine. Raises ``Unusable`` when the port is taken."""
    options = config.get("http_options", {})
    host, port = options.get("host", "0.0.0.0"), options.get("port", 8000)
    # Serve's own message for a busy port comes late, from another process, and says nothing of --port.
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise Unusable(
                f"Port {port} on {host} cannot be used ({reason}): choose another with --port."
            ) from None
    here = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    prefix: str = config["applications"][0].get("route_prefix") or "/"
    return f"http://{f'[{here}]' if ':' in here else here}:{port}{prefix.rstrip('/')}"


def token_hint() -> str:
    """Where the token is that the dashboard asks for, if it asks."""
    token = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return f", its token in {token}" if token and os.environ.get("RAY_AUTH_MODE") == "token" else ""


def drain_seconds(config: dict[str, Any]) -> dict[str, float]:
    """By application: how long its running tasks may go on once a signal has come."""
    from serve_app.config.settings import TaskSettings

    rules = {
        application.get("name", "default"): (application.get("args") or {}).get("tasks") or {}
        for application in config["applications"]
    }
    return {name: TaskSettings.model_validate(tasks).drain_s for name, tasks in rules.items()}


def run(config_file: str, url: str, drain_s: dict[str, float]) -> int:
    """Serve until a signal (0) or a failed start (1)."""
    import click
    import ray
    from ray import serve
    from ray.serve.scripts import cli

    try:
        # What Ray's processes print is in its logs; here it would bury what the user must know.
        cluster = ray.init(namespace="serve", log_to_driver=False)
    except ConnectionError as error:
        raise Unusable(f"There is no Ray cluster at {os.environ.get('RAY_ADDRESS')}: {error}") from None
    except SystemExit:  # how Ray's own SIGTERM handler leaves, once it has ended what it had started
        return 0
    signal.signal(signal.SIGTERM, stop)  # in place of Ray's
    startup = Startup(url, cluster.dashboard_url)
    startup.start()
    try:
        cli.main(["run", "--non-blocking", config_file], standalone_mode=False)
        while True:
            signal.pause()
    except SystemExit:  # it has shut Serve down on an error that it has printed
        ignore_signals()
    except (KeyboardInterrupt, click.Abort):
        if not startup.failure:
            drain(drain_s)
        ignore_signals()
        serve.shutdown()
    ray.shutdown()
    return 0 if stopping.is_set() and not startup.failure else 1


def drain(drain_s: dict[str, float]) -> None:
    """Let running tasks end. A second signal has them handed back at once, a third goes on without."""
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # a handle says in the terminal that it is made
    for seconds in (drain_s, dict.fromkeys(drain_s, 0.0)):
        try:
            return drain_once(seconds)
        except KeyboardInterrupt:
            continue


def drain_once(drain_s: dict[str, float]) -> None:
    """Returns when every application has drained, or does not answer in time."""
    drains = [
        threading.Thread(target=drain_application, args=each, name="drain", daemon=True)
        for each in drain_s.items()
    ]
    for thread in drains:
        thread.start()
    ends_at = time.monotonic() + max(drain_s.values()) + DRAIN_ANSWER_S
    for thread in drains:
        thread.join(max(0.0, ends_at - time.monotonic()))


def drain_application(name: str, drain_s: float) -> None:
    """Ask the application's coordinator to drain, if there is one."""
    from ray import serve
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    try:
        states = serve.status().applications[name].deployments["coordinator"].replica_states
        if "RUNNING" in states:
            print(f"Running tasks have {drain_s:g} s to end; another signal hands them back now.", flush=True)
            serve.get_deployment_handle("coordinator", name).drain.remote(drain_s).result()
    except (KeyError, RayError, RayServeException):  # it has not come so far, or is gone already
        return


class Startup(threading.Thread):
    """Says that the service is ready once it is, or ends the process when Serve gives an application up."""

    def __init__(self, url: str, dashboard: str | None) -> None:
        super().__init__(name="startup", daemon=True)
        self.url = url
        self.dashboard = dashboard
        self.failure: str | None = None

    def run(self) -> None:
        pause = threading.Event()
        while not stopping.is_set() and not pause.wait(POLL_S):
            if self._ready():
                print(f"Wan Serve is ready at {self.url}", flush=True)
                if self.dashboard:
                    print(f"The Ray dashboard is at http://{self.dashboard}{token_hint()}", flush=True)
                return
            self.failure = self._failure()
            if self.failure:
                print(f"Wan Serve could not start: {self.failure}", file=sys.stderr, flush=True)
                os.kill(os.getpid(), signal.SIGINT)
                return

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:  # URLError and HTTPError are OSErrors
            return False

    def _failure(self) -> str | None:
        from ray import serve
        from ray.serve.schema import ApplicationStatus

        for name, application in serve.status().applications.items():
            if application.status == ApplicationStatus.DEPLOY_FAILED:
                # A deployment's message ends with the traceback of what went wrong, and that with the error.
                messages = [application.message, *(d.message for d in application.deployments.values())]
                ends = [message.strip().splitlines()[-1] for message in messages if message.strip()]
                return f"application {name}: {' '.join(ends)}"
        return None


if __name__ == "__main__":
    sys.exit(main())
