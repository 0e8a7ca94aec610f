"""The record of a launch: which processes of this machine are a service's, for the start after a kill -9."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from serve_app.launch.session import members


class RecordedProcess(BaseModel):
    """A process by its number and its start, since numbers are given again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pid: int
    started_at: float

    @classmethod
    def of(cls, pid: int) -> Self:
        """Record a process that runs."""
        return cls(pid=pid, started_at=psutil.Process(pid).create_time())

    @property
    def lives(self) -> bool:
        """Whether it still runs."""
        try:
            process = psutil.Process(self.pid)
            is_same = process.create_time() == self.started_at
            return is_same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


class LaunchRecord(BaseModel):
    """The launcher of a service, who leads a session of its own, and its supervisor."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    launcher: RecordedProcess
    supervisor: RecordedProcess
    machine: str
    """The machine since its boot, and the container: elsewhere the numbers mean nothing."""

    @classmethod
    def of_this_process(cls) -> Self | None:
        """Record this process; None where it leads no session, so that others share it."""
        if os.getsid(0) != os.getpid():
            return None
        launcher, supervisor = RecordedProcess.of(os.getpid()), RecordedProcess.of(os.getppid())
        return cls(launcher=launcher, supervisor=supervisor, machine=_machine())

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read a record; None where there is none, or one of another machine."""
        try:
            record = cls.model_validate_json(text)
        except ValidationError:
            return None
        return record if record.machine == _machine() else None

    @property
    def is_orphan(self) -> bool:
        """Whether the launcher lives and its supervisor was killed, so that it is to stop."""
        return self.launcher.lives and not self.supervisor.lives

    def left_behind(self) -> Sequence[psutil.Process]:
        """Return what runs of a service that no longer holds its data."""
        with suppress(psutil.NoSuchProcess):
            # A number is not given again while the session of that number lives.
            if psutil.Process(self.launcher.pid).create_time() != self.launcher.started_at:
                return []
        began = self.launcher.started_at
        return [process for process in members(self.launcher.pid) if process.create_time() >= began]


def _machine() -> str:
    boot, container = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    if boot.exists() and container.exists():
        return f"{boot.read_text().strip()} {container.stat().st_ino}"
    return f"{os.uname().nodename} {psutil.boot_time()}"
