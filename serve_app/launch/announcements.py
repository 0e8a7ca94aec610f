"""What a launch says while it goes on: sentences for people, or a JSON document on each line for programs."""

import json
import sys
from dataclasses import dataclass, field
from typing import TextIO


@dataclass(frozen=True, slots=True)
class Announcements:
    """Prints what happens; where that is JSON, sentences of failures still go to standard error."""

    as_json: bool = False
    out: TextIO = field(default_factory=lambda: sys.stdout)
    """Where it prints, but failures; with JSON nothing else may print there."""

    def ready(self, url: str, dashboard: str | None, token_file: str | None) -> None:
        """Say where the service and Ray's dashboard are."""
        if self.as_json:
            dashboard_url = f"http://{dashboard}" if dashboard else None
            return self._event("ready", url=url, dashboard=dashboard_url, dashboard_token_file=token_file)
        print(f"Wan Serve is ready at {url}", file=self.out, flush=True)
        if dashboard:
            hint = f", its token in {token_file}" if token_file else ""
            print(f"The Ray dashboard is at http://{dashboard}{hint}", file=self.out, flush=True)

    def draining(self, application: str, seconds: float) -> None:
        """Say how long the running tasks of an application have to end."""
        if self.as_json:
            return self._event("draining", application=application, seconds=seconds)
        sentence = f"Running tasks have {seconds:g} s to end; another signal hands them back now."
        print(sentence, file=self.out, flush=True)

    def failed(self, reason: str) -> None:
        """Say why the service does not start."""
        print(reason, file=sys.stderr, flush=True)
        if self.as_json:
            self._event("failed", reason=reason)

    def _event(self, name: str, **facts: object) -> None:
        print(json.dumps({"event": name, **facts}), file=self.out, flush=True)
