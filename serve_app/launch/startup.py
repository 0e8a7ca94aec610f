"""The watch over a start: until the service is ready, or Ray Serve gives an application up."""

import os
import signal
import sys
import threading
import urllib.request

from ray import serve
from ray.serve.schema import ApplicationStatus

from serve_app.launch.stop_signals import StopSignals

_POLL_S = 0.5


class Startup(threading.Thread):
    """Says that the service is ready once it is, or interrupts the process when the start has failed."""

    def __init__(self, url: str, dashboard: str | None, stop_signals: StopSignals) -> None:
        super().__init__(name="startup", daemon=True)
        self._url = url
        self._dashboard = dashboard
        self._stop_signals = stop_signals
        self._failed = False

    @property
    def failed(self) -> bool:
        """Whether Ray Serve has given an application up."""
        return self._failed

    def run(self) -> None:
        """Look twice a second until there is something to say, or a signal has come."""
        pause = threading.Event()
        while not self._stop_signals.stopping and not pause.wait(_POLL_S):
            if self._ready():
                print(f"Wan Serve is ready at {self._url}", flush=True)
                if self._dashboard:
                    print(f"The Ray dashboard is at http://{self._dashboard}{_token_hint()}", flush=True)
                return
            if failure := _failure():
                self._failed = True
                print(f"Wan Serve could not start: {failure}", file=sys.stderr, flush=True)
                os.kill(os.getpid(), signal.SIGINT)
                return

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._url}/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:  # URLError and HTTPError are OSErrors
            return False


def _failure() -> str | None:
    """Why an application could not be deployed, in one line; None while none has failed."""
    for name, application in serve.status().applications.items():
        if application.status == ApplicationStatus.DEPLOY_FAILED:
            # A deployment's message ends with the traceback of what went wrong, and that with the error.
            messages = [application.message, *(d.message for d in application.deployments.values())]
            ends = [message.strip().splitlines()[-1] for message in messages if message.strip()]
            return f"application {name}: {' '.join(ends)}"
    return None


def _token_hint() -> str:
    """Where the token is that the dashboard asks for, if it asks."""
    token = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return f", its token in {token}" if token and os.environ.get("RAY_AUTH_MODE") == "token" else ""
