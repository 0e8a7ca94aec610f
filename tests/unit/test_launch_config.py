"""The launcher's reading of a configuration before Ray starts."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.launch.launch_config import LaunchConfig, LaunchError


def read(
    folder: Path,
    http: dict[str, Any],
    *applications: dict[str, Any],
    port: int | None = None,
    replicas: int | None = None,
) -> LaunchConfig:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"http_options": http, "applications": applications or [{"name": "wan"}]}))
    return LaunchConfig.read(path, port=port, replicas=replicas)


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def busy_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_the_port_asked_for_comes_in_place_of_the_one_in_the_file(tmp_path: Path, free_port: int) -> None:
    config = read(tmp_path, {"host": "127.0.0.1", "port": 1}, port=free_port)
    assert config.document["http_options"] == {"host": "127.0.0.1", "port": free_port}
    assert config.url == f"http://127.0.0.1:{free_port}"


def test_replicas_asked_for_are_those_of_every_model_which_then_scales_no_more(
    tmp_path: Path, free_port: int
) -> None:
    models = [{"name": "a", "autoscaling": {"max_replicas": 9}}, {"name": "b", "replicas": 1}]
    application = {"name": "wan", "args": {"models": models}}
    config = read(tmp_path, {"host": "127.0.0.1", "port": free_port}, application, replicas=3)
    (found,) = config.document["applications"]
    assert found["args"]["models"] == [{"name": "a", "replicas": 3}, {"name": "b", "replicas": 3}]


def test_a_service_on_all_addresses_is_named_by_the_loopback_address_and_its_route(
    tmp_path: Path, free_port: int
) -> None:
    application = {"name": "wan", "route_prefix": "/wan/"}
    config = read(tmp_path, {"host": "0.0.0.0", "port": free_port}, application)
    assert config.url == f"http://127.0.0.1:{free_port}/wan"


def test_a_busy_port_is_refused_with_who_has_it_and_the_option_that_helps(
    tmp_path: Path, busy_port: int
) -> None:
    config = read(tmp_path, {"host": "127.0.0.1", "port": busy_port})
    holder = rf"process {os.getpid()}, \S+, listens there"
    with pytest.raises(
        LaunchError, match=f"^Port {busy_port} on 127.0.0.1 cannot be used .{holder}.*--port.$"
    ):
        config.require_free_port()


def test_each_application_drains_for_as_long_as_its_own_settings_say(tmp_path: Path, free_port: int) -> None:
    applications = ({"name": "long", "args": {"tasks": {"drain_s": 33.0}}}, {"name": "plain"})
    config = read(tmp_path, {"host": "127.0.0.1", "port": free_port}, *applications)
    assert config.drain_s["long"] == 33.0
    assert config.drain_s["plain"] > 0


@pytest.mark.parametrize(
    ("host", "keys", "warns"),
    [
        ("0.0.0.0", [], True),
        ("::", [], True),
        ("0.0.0.0", ["a key"], False),
        ("127.0.0.1", [], False),
        ("localhost", [], False),
    ],
)
def test_a_service_that_is_open_to_others_is_warned_of(
    tmp_path: Path, free_port: int, host: str, keys: list[str], warns: bool
) -> None:
    application = {"name": "wan", "args": {"keys": keys}}
    warning = read(tmp_path, {"host": host, "port": free_port}, application).warning
    if not warns:
        assert warning is None
    else:
        assert warning is not None and f"listens on {host}:{free_port}." in warning


def test_one_application_without_keys_beside_one_with_is_warned_of(tmp_path: Path, free_port: int) -> None:
    keyed, open_to_all = {"name": "a", "args": {"keys": ["a key"]}}, {"name": "b"}
    assert read(tmp_path, {"host": "0.0.0.0", "port": free_port}, keyed, open_to_all).warning
