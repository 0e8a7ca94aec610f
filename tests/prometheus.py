"""Debian's Prometheus: its tool for rules, and a server that scrapes a running service."""

import json
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import yaml

from testbed.service import HTTP, wait_for
from tests.needed import needed

START_S = 60
STOP_S = 30


def program(name: str) -> str:
    """Return the path of ``prometheus`` or ``promtool``."""
    return needed(shutil.which(name), name, "Debian's package prometheus")


def promtool(*arguments: str | Path) -> str:
    """Run promtool; return all it says against what it was given, nothing where that is well."""
    command = [program("promtool"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr if done.returncode else ""


class Prometheus:
    """A context manager around a server that scrapes one address each second."""

    def __init__(self, folder: Path, port: int, target: str, rules: Path) -> None:
        """``target``: host and port; ``rules``: a file of alert rules that it evaluates."""
        self._folder = folder
        self._address = f"127.0.0.1:{port}"
        self._config = folder / "prometheus.yml"
        job = {"job_name": "wan-serve", "static_configs": [{"targets": [target]}]}
        settings = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        self._config.write_text(
            yaml.safe_dump({"global": settings, "scrape_configs": [job], "rule_files": [str(rules)]})
        )
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [
                program("prometheus"),
                f"--config.file={self._config}",
                f"--storage.tsdb.path={self._folder / 'tsdb'}",
                f"--web.listen-address={self._address}",
                "--log.level=error",
            ],
            stdout=subprocess.DEVNULL,
        )
        try:
            wait_for(self._is_ready, START_S, lambda: "Prometheus is not ready")
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(STOP_S)

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return the labels and the value of each series of an expression, as of now."""
        data = self._get("query", query=expression)
        return [(found["metric"], float(found["value"][1])) for found in data["result"]]

    def names(self) -> set[str]:
        """Return the names of all series."""
        return set(self._get("label/__name__/values"))

    def rules(self) -> list[dict[str, Any]]:
        """Return the alert rules with their health and state."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def _get(self, path: str, **parameters: str) -> Any:
        answer = HTTP.get(f"http://{self._address}/api/v1/{path}", params=parameters)
        assert answer.status_code == 200, answer.text
        return json.loads(answer.text)["data"]

    def _is_ready(self) -> bool:
        assert self._process is not None and self._process.poll() is None, "Prometheus ended"
        try:
            return HTTP.get(f"http://{self._address}/-/ready").status_code == 200
        except httpx.TransportError:
            return False
