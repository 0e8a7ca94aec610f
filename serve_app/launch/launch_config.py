"""The configuration to launch: the file's, with the requested port and replicas."""

import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psutil
import yaml

from serve_app.config.settings import TaskSettings


class LaunchError(Exception):
    """The service cannot be started; the message is one sentence for the user."""


@dataclass(frozen=True, slots=True)
class LaunchConfig:
    """A configuration ready to be passed to Ray Serve."""

    document: Mapping[str, Any]
    """The Ray Serve configuration."""
    url: str
    """The service's address on this machine."""
    drain_s: Mapping[str, float]
    """Longest drain of running tasks after a signal, in seconds, by application."""
    warning: str | None
    """Sentences on a risk of the configuration, None for one without."""

    @classmethod
    def read(cls, path: Path, *, port: int | None, replicas: int | None) -> Self:
        """Read a file that preflight has passed."""
        document = yaml.safe_load(path.read_text())
        if port:
            document["http_options"] = {**document.get("http_options", {}), "port": port}
        if replicas:
            _set_replicas(document, replicas)
        return cls(document, _url(document), _drain_seconds(document), _open_to_others(document))

    def require_free_port(self) -> None:
        """Raise ``LaunchError`` when the port is taken, with who has it where this user can tell.

        Serve's own message comes late, from another process, and does not mention ``--port``.
        """
        host, port = address(self.document)
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                reason = _holder_of(port) or (error.strerror or str(error)).lower()
                raise LaunchError(
                    f"Port {port} on {host} cannot be used ({reason}): choose another with --port."
                ) from None


def is_for_this_machine(path: Path) -> bool:
    """Return whether a file has the service listen on a loopback address; False for one that says nothing."""
    with suppress(OSError, yaml.YAMLError, AttributeError, TypeError):
        return _is_loopback(address(yaml.safe_load(path.read_text()))[0])
    return False


def _set_replicas(document: dict[str, Any], replicas: int) -> None:
    for application in document["applications"]:
        for model in application.get("args", {}).get("models", []):
            model["replicas"] = replicas
            model.pop("autoscaling", None)


def _holder_of(port: int) -> str | None:
    """Return words for the process that listens on a port; None where this user cannot see it."""
    with suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if connection.status != psutil.CONN_LISTEN or not connection.laddr or not connection.pid:
                continue
            if connection.laddr.port == port:
                return f"process {connection.pid}, {psutil.Process(connection.pid).name()}, listens there"
    return None


def _url(document: Mapping[str, Any]) -> str:
    host, port = address(document)
    here = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    prefix: str = document["applications"][0].get("route_prefix") or "/"
    return f"http://{f'[{here}]' if ':' in here else here}:{port}{prefix.rstrip('/')}"


def address(document: Mapping[str, Any]) -> tuple[str, int]:
    """Return the host and the port that a Ray Serve configuration listens on."""
    options = document.get("http_options", {})
    return options.get("host", "0.0.0.0"), options.get("port", 8000)


def _open_to_others(document: Mapping[str, Any]) -> str | None:
    """Warn of an application without API keys that listens beyond the loopback addresses."""
    host, port = address(document)
    if _is_loopback(host):
        return None
    if all((application.get("args") or {}).get("keys") for application in document["applications"]):
        return None
    return (
        f"Warning: there are no API keys, and the service listens on {host}:{port}. Whoever reaches this "
        "machine can make videos, and see and delete those of others. Set http_options.host to 127.0.0.1, or "
        "keys."
    )


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _drain_seconds(document: Mapping[str, Any]) -> Mapping[str, float]:
    rules = {
        application.get("name", "default"): (application.get("args") or {}).get("tasks") or {}
        for application in document["applications"]
    }
    return {name: TaskSettings.model_validate(tasks).drain_s for name, tasks in rules.items()}
