"""The name of a service among those on its database: of its Ray cluster, and of the application in that."""

import os

import ray
from ray import serve


def service_name() -> str:
    """Return the name; call in a replica.

    It stays when the coordinator or the application is replaced, and is another one when Ray starts anew,
    unless the environment has a name: on Kubernetes that of the Ray cluster, which outlives its head.
    """
    cluster = os.environ.get("WAN_SERVE_SERVICE") or ray.get_runtime_context().get_session_name()
    return f"{cluster}:{serve.get_replica_context().app_name}"
