"""The startup watch: waits until the service is ready, or until Ray Serve reports a failed deploy."""

import os
import signal
import threading
import urllib.request

from ray import serve
from ray.exceptions import RayError
from ray.serve.schema import ApplicationStatus

from serve_app.launch.announcements import Announcements
from serve_app.launch.stop_signals import StopSignals

_POLL_S = 0.5


class Startup(threading.Thread):
    """Thread that says when the service is ready, and interrupts the process when the start fails."""

    def __init__(
        self, url: str, dashboard: str | None, stop_signals: StopSignals, announce: Announcements
    ) -> None:
        super().__init__(name="startup", daemon=True)
        self._announce = announce
        self._url = url
        self._dashboard = dashboard
        self._stop_signals = stop_signals
        self._was_ready = False
        self._failed = False

    @property
    def was_ready(self) -> bool:
        """True once the service has been ready."""
        return self._was_ready

    @property
    def failed(self) -> bool:
        """True once Ray Serve has reported a failed deploy."""
        return self._failed

    def run(self) -> None:
        """Poll twice a second until the service is ready, the start has failed or a signal has come."""
        pause = threading.Event()
        while not self._stop_signals.stopping and not pause.wait(_POLL_S):
            if self._is_ready():
                self._was_ready = True
                self._announce.ready(self._url, self._dashboard, _token_file())
                return
            if failure := _failure():
                self._failed = True
                self._announce.failed(f"Wan Serve could not start: {failure}")
                os.kill(os.getpid(), signal.SIGINT)
                return

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._url}/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:  # URLError and HTTPError are OSErrors
            return False


def _failure() -> str | None:
    """Return one line about the application that could not be deployed; None while none has failed."""
    try:
        applications = serve.status().applications
    except RayError:  # the controller has died: another one comes, unless the service is being stopped
        return None
    for name, application in applications.items():
        if application.status == ApplicationStatus.DEPLOY_FAILED:
            # A deployment's message ends with a traceback, whose last line is the error.
            messages = [application.message, *(d.message for d in application.deployments.values())]
            ends = [message.strip().splitlines()[-1] for message in messages if message.strip()]
            return f"application {name}: {' '.join(ends)}"
    return None


def _token_file() -> str | None:
    """Return the file of the token that the dashboard wants; None where it wants none."""
    return os.environ.get("RAY_AUTH_TOKEN_PATH") if os.environ.get("RAY_AUTH_MODE") == "token" else None
