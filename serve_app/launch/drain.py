"""The drain at shutdown: running tasks end before the service stops."""

import logging
import threading
import time
from collections.abc import Mapping

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus

from serve_app.launch.announcements import Announcements
from serve_app.scaling_policy import COORDINATOR

_ANSWER_S = 25.0
"""Time for a coordinator to answer, in addition to the drain itself: for one that has died, another comes."""
_AGAIN_S = 0.5
_HAS_BEGUN = frozenset({ApplicationStatus.RUNNING, ApplicationStatus.UNHEALTHY})
"""Of an application that has been up, so that a coordinator that is not there is being replaced."""


def drain(drain_s: Mapping[str, float], announce: Announcements, *, was_ready: bool) -> None:
    """Wait for running tasks to end, at most ``drain_s`` seconds for each application.

    A second signal hands the tasks back to the queue at once; a third stops the wait for that. ``was_ready``:
    whether the service has been ready, so that each application has a coordinator, or gets one again.
    """
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # a new handle logs to the terminal
    for seconds in (drain_s, dict.fromkeys(drain_s, 0.0)):
        try:
            return _drain_all(seconds, announce, was_ready)
        except KeyboardInterrupt:
            continue


def _drain_all(drain_s: Mapping[str, float], announce: Announcements, was_ready: bool) -> None:
    """Drain all applications at the same time; return when each has drained or timed out."""
    drains = [
        threading.Thread(
            target=_drain_application, args=(*each, announce, was_ready), name="drain", daemon=True
        )
        for each in drain_s.items()
    ]
    for thread in drains:
        thread.start()
    ends_at = time.monotonic() + max(drain_s.values()) + _ANSWER_S
    for thread in drains:
        thread.join(max(0.0, ends_at - time.monotonic()))


def _drain_application(name: str, drain_s: float, announce: Announcements, was_ready: bool) -> None:
    """Have the application's coordinator drain, or the one that comes in its place, if any was up."""
    ends_at = time.monotonic() + drain_s
    if _has_coordinator(name, was_ready):
        announce.draining(name, drain_s)
    while _has_coordinator(name, was_ready):
        try:
            left_s = max(0.0, ends_at - time.monotonic())
            serve.get_deployment_handle(COORDINATOR, name).drain.remote(left_s).result()
            return
        except (KeyError, RayError, RayServeException):  # it has died, or its database is away
            time.sleep(_AGAIN_S)


def _has_coordinator(name: str, was_ready: bool) -> bool:
    """Return whether the application has a coordinator, or is about to have one again."""
    try:
        application = serve.status().applications.get(name)
    except (RayError, RayServeException):  # Serve's controller has died: another one comes, and finds it
        return was_ready
    if application is None:
        return False
    coordinator = application.deployments.get(COORDINATOR)
    if coordinator is None and application.deployments:  # it is another one's application
        return False
    runs = coordinator is not None and "RUNNING" in coordinator.replica_states
    return was_ready or runs or application.status in _HAS_BEGUN
