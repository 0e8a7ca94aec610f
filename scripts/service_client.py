"""JSON over HTTP to a running service, for the scripts beside this file. Needs nothing but Python.

WAN_SERVE_KEY   the API key, for a service that asks for one
"""

import argparse
import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

TIMEOUT_S = 30


class Service:
    """A service at one URL. Where it is not there, or refuses, the script ends with one sentence."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def get(self, path: str) -> Any:
        """The JSON answer to a GET."""
        return self._call(path, None)

    def post(self, path: str, body: Mapping[str, object]) -> Any:
        """The JSON answer to a POST of this body."""
        return self._call(path, json.dumps(body).encode())

    def _call(self, path: str, body: bytes | None) -> Any:
        try:
            request = urllib.request.Request(self.url + path, body, _headers())
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            retry_after_s = error.headers.get("Retry-After")
            if error.code == 429 and retry_after_s:
                time.sleep(int(retry_after_s))
                return self._call(path, body)
            sys.exit(f"{self.url} refused it with HTTP {error.code}: {error.read().decode(errors='replace')}")
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            sys.exit(
                f"No service answers at {self.url} ({reason}): start one with scripts/serve, or give --url."
            )


def _headers() -> dict[str, str]:
    key = os.environ.get("WAN_SERVE_KEY")
    return {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}


def parser(description: str | None) -> argparse.ArgumentParser:
    """A command line with the service's URL."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--url", default="http://127.0.0.1:8000", help="of the service (default: %(default)s)")
    return made


def show(answer: object) -> None:
    """Print an answer as indented JSON."""
    print(json.dumps(answer, indent=2, ensure_ascii=False))
