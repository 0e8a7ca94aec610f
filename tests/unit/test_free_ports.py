"""Ports that are found free are free, and are none that the system gives to whoever asks for any."""

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from serve_app.config import free_ports as room
from serve_app.config.free_ports import free_ports


def test_each_port_can_be_listened_on_and_is_given_to_nobody_by_chance() -> None:
    ports = free_ports(3)
    assert len(set(ports)) == 3
    least, most = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    with ExitStack() as held:
        for port in ports:
            held.enter_context(socket.create_server(("127.0.0.1", port)))
    assert not [port for port in ports if least <= port <= most]


def test_a_port_that_is_listened_on_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_TRIES", 2)
    taken, free = free_ports(2)
    monkeypatch.setattr(room, "_RANGE", [taken, free])
    with socket.create_server(("127.0.0.1", taken)):
        assert list(free_ports(1)) == [free]
        monkeypatch.setattr(room, "_RANGE", [taken, taken])
        with pytest.raises(OSError, match="are taken"):
            free_ports(1)
