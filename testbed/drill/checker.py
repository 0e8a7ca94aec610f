"""Judges a service by its HTTP answers alone: what was promised, and what became of it."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

FINAL = frozenset({"succeed", "failed", "cancelled"})


@dataclass(frozen=True)
class Verdict:
    """Tasks by what went wrong with them; all are empty where every promise was kept."""

    acknowledged: int
    lost: list[str]
    """Acknowledged, and unknown to the service later."""
    duplicated: list[str]
    """Ended more than once, or listed more than once."""
    changed: list[str]
    """Final, or further on, and later told otherwise; or a result whose bytes did not stay."""
    stuck: list[str]
    """Not final when the time was up."""
    outcomes: Mapping[str, int]
    """How the others ended."""

    @property
    def is_clean(self) -> bool:
        """Whether every promise was kept."""
        return not (self.lost or self.duplicated or self.changed or self.stuck)

    def as_json(self) -> dict[str, Any]:
        """The figures by name: how many tasks went wrong in each way."""
        return {key: len(value) if isinstance(value, list) else value for key, value in asdict(self).items()}


@dataclass
class _Record:
    """What was seen of one task."""

    progress: float = 0.0
    final: Mapping[str, Any] | None = None
    result: str | None = None


@dataclass
class Checker:
    """Is told every answer in the order it came."""

    records: dict[str, _Record] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    duplicated: set[str] = field(default_factory=set)
    changed: set[str] = field(default_factory=set)

    def acknowledged(self, task_id: str) -> None:
        """The service acknowledged this task."""
        self.records.setdefault(task_id, _Record())

    def unknown(self, task_id: str) -> None:
        """The service answered 404 for a task that it had acknowledged."""
        self.lost.add(task_id)

    def status(self, task_id: str, answer: Mapping[str, Any]) -> None:
        """The service answered with this status of an acknowledged task."""
        record = self.records[task_id]
        if record.final is not None:
            self._compare(task_id, record.final, answer)
            return
        if answer["progress"] < record.progress and answer["attempt"] < 2:
            self.changed.add(task_id)
        record.progress = answer["progress"]
        if answer["status"] in FINAL:
            record.final = dict(answer)

    def result(self, task_id: str, video: bytes) -> None:
        """The service answered with these bytes as the result of an acknowledged task."""
        record = self.records[task_id]
        digest = hashlib.sha256(video).hexdigest()
        if record.result not in (None, digest):
            self.changed.add(task_id)
        record.result = digest

    def listed(self, task_ids: list[str]) -> None:
        """Every task of the service, as it lists them."""
        for task_id in self.records:
            count = task_ids.count(task_id)
            if count > 1:
                self.duplicated.add(task_id)
            elif count == 0:
                self.lost.add(task_id)

    @property
    def open(self) -> list[str]:
        """Acknowledged tasks that were not seen to end."""
        return [task_id for task_id, record in self.records.items() if record.final is None]

    @property
    def succeeded(self) -> list[str]:
        """Acknowledged tasks that were seen to succeed."""
        return [
            task_id
            for task_id, record in self.records.items()
            if record.final is not None and record.final["status"] == "succeed"
        ]

    def verdict(self) -> Verdict:
        """The judgement by all that was told so far."""
        outcomes: dict[str, int] = {}
        for record in self.records.values():
            if record.final is not None:
                status = record.final["status"]
                outcomes[status] = outcomes.get(status, 0) + 1
        return Verdict(
            acknowledged=len(self.records),
            lost=sorted(self.lost),
            duplicated=sorted(self.duplicated),
            changed=sorted(self.changed),
            stuck=sorted(set(self.open) - self.lost),
            outcomes=outcomes,
        )

    def _compare(self, task_id: str, final: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        if answer["status"] != final["status"]:
            self.changed.add(task_id)
        elif (answer["attempt"], answer["finished_at"]) != (final["attempt"], final["finished_at"]):
            self.duplicated.add(task_id)  # it ended again
