"""The audit log: a file with a JSON line for each act of a key's holder, rotated by its size.

A thread of its own writes it, so no request waits for it. Several processes may share the file: they take
turns by a lock beside it.
"""

import fcntl
import json
import logging
import os
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from serve_app.config.audit_settings import AuditSettings
from serve_app.tasks.acts import ORIGIN
from serve_app.tasks.caller import Caller

_MOST_WAITING = 10_000
"""Lines that may wait for the disk; further ones are dropped, and counted in the log."""
_MOST_AT_ONCE = 500
_LONGEST_HEADER = 200
_logger = logging.getLogger("ray.serve")


class AuditLog:
    """Implements ``serve_app.tasks.acts.Acts``."""

    def __init__(self, settings: AuditSettings) -> None:
        self._path = settings.path
        self._max_bytes = settings.max_bytes
        self._keep = settings.keep
        self._waiting: queue.Queue[bytes | None] = queue.Queue(_MOST_WAITING)
        self._dropped = 0
        self._writer = threading.Thread(target=self._write_on, name="audit", daemon=True)
        self._writer.start()

    def did(self, caller: Caller, act: str, **about: str | None) -> None:
        """Have a line written; drop it if thousands wait already."""
        origin = ORIGIN.get()
        line = {
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "key": caller.name,
            "admin": caller.is_admin,
            "act": act,
            **{name: value for name, value in about.items() if value is not None},
            "from": origin.address,
        }
        if origin.forwarded_for:
            line["forwarded_for"] = origin.forwarded_for[:_LONGEST_HEADER]
        try:
            self._waiting.put_nowait(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Write what waits, and end."""
        self._waiting.put(None)
        self._writer.join()

    def _write_on(self) -> None:
        ends = False
        while not ends:
            lines = [self._waiting.get()]
            while len(lines) < _MOST_AT_ONCE and not self._waiting.empty():
                lines.append(self._waiting.get())
            ends = None in lines
            text = [line for line in lines if line is not None]
            dropped, self._dropped = self._dropped, 0
            if dropped:
                _logger.error("the audit log: %d lines were dropped, the disk is too slow", dropped)
            try:
                if text:
                    self._append(b"".join(text))
            except OSError:
                _logger.exception("the audit log: %d lines were not written", len(text))

    def _append(self, text: bytes) -> None:
        with self._turn():
            if self._path.exists() and self._path.stat().st_size + len(text) > self._max_bytes:
                self._rotate()
            with os.fdopen(os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab") as file:
                file.write(text)

    def _rotate(self) -> None:
        for number in range(self._keep - 1, 0, -1):
            if self._numbered(number).exists():
                self._numbered(number).replace(self._numbered(number + 1))
        self._path.replace(self._numbered(1))

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    @contextmanager
    def _turn(self) -> Iterator[None]:
        with open(self._path.with_name(f"{self._path.name}.lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
