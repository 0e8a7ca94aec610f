"""A judge of a service by its answers, events, webhooks and uploads: each promise, and whether it kept it."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

FINAL = frozenset({"succeed", "failed", "cancelled"})
_TELLS = {"succeed": "task.succeeded", "failed": "task.failed", "cancelled": "task.cancelled"}
"""The webhook message of each end."""


@dataclass(frozen=True)
class Verdict:
    """Task ids by the promise that was broken; every list is empty where all promises were kept."""

    acknowledged: int
    lost: list[str]
    """Tasks that were acknowledged, and unknown to the service later."""
    duplicated: list[str]
    """Tasks that ended more than once, or are listed more than once."""
    changed: list[str]
    """Tasks whose final status or progress was taken back, or whose result changed its bytes."""
    stuck: list[str]
    """Tasks that were not final when the time was up."""
    failed: list[str]
    """Tasks that failed, each with its error: nothing is wrong with any of them."""
    untold: list[str]
    """Tasks of whose end no webhook message told, or two that are not one message sent again."""
    unseen: list[str]
    """Tasks whose end a follower of events did not see."""
    unsent: list[str]
    """Tasks that succeeded, and whose video did not come to the client's storage, or other bytes did."""
    repeated: int
    """Webhook messages that came again, which they may."""
    outcomes: Mapping[str, int]
    """The number of tasks by final status."""

    @property
    def is_clean(self) -> bool:
        """True if every promise was kept."""
        return not self.broken()

    def broken(self) -> list[str]:
        """Return a line for each broken promise, with the ids of the tasks."""
        found = {key: value for key, value in asdict(self).items() if isinstance(value, list) and value}
        return [f"{key}: {', '.join(ids)}" for key, ids in found.items()]

    def as_json(self) -> dict[str, Any]:
        """Return the figures by name: the number of tasks for each broken promise."""
        return {key: len(value) if isinstance(value, list) else value for key, value in asdict(self).items()}


@dataclass
class _Record:
    """The last answers about one task."""

    progress: float = 0.0
    final: Mapping[str, Any] | None = None
    result: str | None = None
    told: dict[str, list[str]] = field(default_factory=dict)
    """Ids of the webhook messages by type, each as often as it came."""
    seen: dict[str, str] = field(default_factory=dict)
    """The last status that each follower of events saw."""
    uploads: set[str] | None = None
    """Of the videos that came to the client's storage; None for a task that was to send none there."""


@dataclass
class Checker:
    """A record of every answer, in the order in which they came, and the verdict on them.

    ``followers``: the names of those who follow the events of each task; none where nobody does, and no
    webhooks are received.
    """

    followers: frozenset[str] = frozenset()
    records: dict[str, _Record] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    duplicated: set[str] = field(default_factory=set)
    changed: set[str] = field(default_factory=set)

    def acknowledged(self, task_id: str) -> None:
        """Note that the service acknowledged this task."""
        self.records.setdefault(task_id, _Record())

    def unknown(self, task_id: str) -> None:
        """Note that the service answered 404 for a task that it had acknowledged."""
        self.lost.add(task_id)

    def status(self, task_id: str, answer: Mapping[str, Any]) -> None:
        """Note the status with which the service answered for an acknowledged task."""
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
        """Note the bytes that the service answered as the result of an acknowledged task."""
        record = self.records[task_id]
        digest = hashlib.sha256(video).hexdigest()
        if record.result not in (None, digest):
            self.changed.add(task_id)
        record.result = digest

    def awaits_upload(self, task_id: str) -> None:
        """Note that a task is to send its video to the client's storage."""
        record = self.records.setdefault(task_id, _Record())
        record.uploads = record.uploads or set()

    def uploaded(self, task_id: str, video: bytes) -> None:
        """Note a video that came to the client's storage, whole."""
        self.awaits_upload(task_id)
        uploads = self.records[task_id].uploads
        assert uploads is not None
        uploads.add(hashlib.sha256(video).hexdigest())

    def told(self, task_id: str, type: str, message_id: str) -> None:
        """Note a webhook message."""
        self.records.setdefault(task_id, _Record()).told.setdefault(type, []).append(message_id)

    def saw(self, follower: str, event: Mapping[str, Any]) -> None:
        """Note an event that a follower received."""
        record = self.records.setdefault(event["task_id"], _Record())
        if record.seen.get(follower) not in FINAL:
            record.seen[follower] = event["status"]
        elif record.seen[follower] != event["status"]:
            self.changed.add(event["task_id"])

    @property
    def untold(self) -> list[str]:
        """The ended tasks of whose end not exactly one message told."""
        return [
            task_id
            for task_id, record in self.records.items()
            if self.followers
            and record.final is not None
            and len(set(record.told.get(_TELLS[record.final["status"]], ()))) != 1
        ]

    @property
    def unseen(self) -> list[str]:
        """The ended tasks whose end some follower has not seen."""
        return [
            task_id
            for task_id, record in self.records.items()
            if record.final is not None
            and any(record.seen.get(each) != record.final["status"] for each in self.followers)
        ]

    @property
    def unsent(self) -> list[str]:
        """The succeeded tasks of which the client's storage did not get the very bytes of the result.

        Of a task whose result was not read yet, whatever bytes.
        """
        return [
            task_id
            for task_id in self.succeeded
            if (uploads := self.records[task_id].uploads) is not None
            and uploads != {self.records[task_id].result or next(iter(uploads), "")}
        ]

    def listed(self, task_ids: list[str]) -> None:
        """Note all tasks that the service lists."""
        for task_id in self.records:
            count = task_ids.count(task_id)
            if count > 1:
                self.duplicated.add(task_id)
            elif count == 0:
                self.lost.add(task_id)

    @property
    def open(self) -> list[str]:
        """The acknowledged tasks that were not seen to end."""
        return [task_id for task_id, record in self.records.items() if record.final is None]

    @property
    def succeeded(self) -> list[str]:
        """The acknowledged tasks that were seen to succeed."""
        return [
            task_id
            for task_id, record in self.records.items()
            if record.final is not None and record.final["status"] == "succeed"
        ]

    def verdict(self) -> Verdict:
        """Judge the service by all answers so far."""
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
            failed=sorted(self._failed),
            untold=sorted(self.untold),
            unseen=sorted(self.unseen),
            unsent=sorted(self.unsent),
            repeated=sum(
                len(ids) - len(set(ids)) for record in self.records.values() for ids in record.told.values()
            ),
            outcomes=outcomes,
        )

    @property
    def _failed(self) -> list[str]:
        return [
            f"{task_id} ({record.final['error']})"
            for task_id, record in self.records.items()
            if record.final is not None and record.final["status"] == "failed"
        ]

    def _compare(self, task_id: str, final: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        if answer["status"] != final["status"]:
            self.changed.add(task_id)
        elif (answer["attempt"], answer["finished_at"]) != (final["attempt"], final["finished_at"]):
            self.duplicated.add(task_id)  # it ended again
