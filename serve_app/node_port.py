"""The port at which a Serve replica takes calls: open no further than Ray's own ports on its node."""

from typing import Any

from ray.serve._private import replica
from ray.util import get_node_ip_address

_OPEN_PORT = "add_port_to_grpc_server"
_LOOPBACK = "127.0.0.1"


def keep_to_node() -> None:
    """Have Serve open this replica's port on the loopback address, where that is the node's address.

    By itself it listens on all addresses. Call in the constructor of a deployment: the port opens after it.
    """
    open_port = getattr(replica, _OPEN_PORT)
    if get_node_ip_address() != _LOOPBACK:
        return

    def open_on_node(server: Any, address: str) -> int:
        port: int = open_port(server, f"{_LOOPBACK}:{address.rpartition(':')[2]}")
        return port

    setattr(replica, _OPEN_PORT, open_on_node)
