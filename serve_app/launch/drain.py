"""The end of running tasks before the service stops."""

import logging
import threading
import time
from collections.abc import Mapping

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from serve_app.scaling_policy import COORDINATOR

_ANSWER_S = 10.0
"""What a coordinator gets beyond the tasks' own time, to answer."""


def drain(drain_s: Mapping[str, float]) -> None:
    """Let running tasks end, for so many seconds by application.

    A second signal has them handed back at once, a third goes on without waiting for that.
    """
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # a handle says in the terminal that it is made
    for seconds in (drain_s, dict.fromkeys(drain_s, 0.0)):
        try:
            return _drain_all(seconds)
        except KeyboardInterrupt:
            continue


def _drain_all(drain_s: Mapping[str, float]) -> None:
    """Returns when every application has drained, or does not answer in time."""
    drains = [
        threading.Thread(target=_drain_application, args=each, name="drain", daemon=True)
        for each in drain_s.items()
    ]
    for thread in drains:
        thread.start()
    ends_at = time.monotonic() + max(drain_s.values()) + _ANSWER_S
    for thread in drains:
        thread.join(max(0.0, ends_at - time.monotonic()))


def _drain_application(name: str, drain_s: float) -> None:
    """Ask the application's coordinator to drain, if there is one."""
    try:
        states = serve.status().applications[name].deployments[COORDINATOR].replica_states
        if "RUNNING" in states:
            print(f"Running tasks have {drain_s:g} s to end; another signal hands them back now.", flush=True)
            serve.get_deployment_handle(COORDINATOR, name).drain.remote(drain_s).result()
    except (KeyError, RayError, RayServeException):  # it has not come so far, or is gone already
        return
