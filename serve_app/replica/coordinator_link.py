"""A replica's connection to the coordinator; runs continue while the coordinator is away."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from serve_app.errors import StoreUnavailable
from serve_app.metrics import LinkMetrics
from serve_app.replica.report_client import NoLine, ReportClient, Unanswered
from serve_app.tasks.command import Command
from serve_app.tasks.replica import Replica
from serve_app.tasks.report_line import Address, Told
from serve_app.tasks.run_report import RunReport
from serve_app.tasks.run_result import RunResult
from serve_app.tasks.task import Task, TaskError

_RETRY_S = 0.2
_METHODS = ("claim", "hand_back", "report", "publish", "fail", "give_up", "saw")
_UNREACHABLE = (RayError, RayServeException, TimeoutError, Unanswered)
_logger = logging.getLogger("ray.serve")


class CoordinatorLink:
    """Implements ``Control`` over a deployment handle, and a report line for what is said most often.

    A report without an answer within ``patience_s`` seconds counts as "continue", since the next one follows
    soon. The end of a run must arrive: the call is retried until it is answered, for up to ``give_up_s``
    seconds, and for as long as it says that the store is away. A claim is waited for as long, which ends
    sooner when the coordinator dies: a slow database takes seconds for one. A task that comes later than that
    is handed back. ``heartbeat``: returns the replica's, which goes along with each report.
    """

    def __init__(
        self,
        handle: DeploymentHandle[Any],
        heartbeat: Callable[[], Replica],
        *,
        patience_s: float,
        give_up_s: float,
    ) -> None:
        self._handle = handle
        self._heartbeat = heartbeat
        self._heard_at = -math.inf
        self._line = ReportClient(self._find_line)
        self._patience_s = patience_s
        self._give_up_s = give_up_s
        self._metrics = LinkMetrics(_METHODS)
        self._late: set[asyncio.Task[None]] = set()

    async def claim(self, model: str, runner: str, ticket: str, loras: Collection[str]) -> Task | None:
        """Claim the next task; return None when there is none or the coordinator is unreachable."""
        claiming = asyncio.create_task(self._claim(model, runner, ticket, loras))
        try:
            answered, _ = await asyncio.wait({claiming}, timeout=self._give_up_s)
        except asyncio.CancelledError:  # the task may have been given out already
            self._hand_back_late(claiming)
            raise
        if answered:
            return claiming.result()
        self._note_unanswered("claim", TimeoutError())
        self._hand_back_late(claiming)
        return None

    async def hand_back(self, task: Task) -> None:
        """Return a task to the queue. If the call is lost, the task's lease expires soon."""
        await self._retry_until_answered("hand_back", task.uid, task.attempt)

    async def report(self, uid: str, attempt: int, report: RunReport) -> Command:
        """Report progress; return what is to be done with the run."""
        report = replace(report, replica=self._heartbeat())
        try:
            command = Command(await asyncio.wait_for(self._report(uid, attempt, report), self._patience_s))
            self._heard_at = time.monotonic()
            return command
        except _UNREACHABLE as error:
            self._note_unanswered("report", error)
            return Command.GO_ON

    async def publish(self, uid: str, attempt: int, result: RunResult) -> bool:
        """Publish the video; return True once it is committed."""
        return await self._retry_until_answered("publish", uid, attempt, result)

    async def fail(self, uid: str, attempt: int, error: TaskError) -> bool:
        """Record the failure; return True once it is committed."""
        return await self._retry_until_answered("fail", uid, attempt, error)

    async def give_up(self, uid: str, attempt: int) -> bool:
        """Return a task to the queue, with an attempt less; return True once that is committed."""
        return await self._retry_until_answered("give_up", uid, attempt)

    async def stay_known(self) -> None:
        """Send a heartbeat, unless a report has brought one in the last ``patience_s`` seconds."""
        if time.monotonic() - self._heard_at >= self._patience_s:
            await self.send_heartbeat()

    async def send_heartbeat(self) -> None:
        """Send a heartbeat; a lost one is not retried."""
        try:
            await asyncio.wait_for(self._saw(self._heartbeat()), self._patience_s)
        except _UNREACHABLE as error:
            self._note_unanswered("saw", error)

    async def _claim(self, model: str, runner: str, ticket: str, loras: Collection[str]) -> Task | None:
        try:
            task: Task | None = await self._handle.claim.remote(model, runner, ticket, loras)
        except _UNREACHABLE as error:
            # If the coordinator dies after the commit, no replica says that it has begun: when the lease
            # ends, the task is queued again, and its attempt is not counted.
            self._note_unanswered("claim", error)
            return None
        return task

    def _hand_back_late(self, claiming: asyncio.Task[Task | None]) -> None:
        async def hand_back() -> None:
            if (task := await claiming) is not None:
                await self.hand_back(task)

        late = asyncio.create_task(hand_back())
        self._late.add(late)
        late.add_done_callback(self._late.discard)

    async def _report(self, uid: str, attempt: int, report: RunReport) -> int:
        try:
            return await self._line.tell(Told(uid, attempt, report))
        except NoLine:
            answer: int = await self._handle.report.remote(uid, attempt, report)
            return answer

    async def _saw(self, replica: Replica) -> None:
        try:
            await self._line.tell(replica)
        except NoLine:
            await self._handle.saw.remote(replica)

    async def _find_line(self) -> Address | None:
        try:
            address: Address | None = await self._handle.report_line.remote()
        except (RayError, RayServeException):  # such as one of the version before, which has none
            return None
        return address

    def _note_unanswered(self, method: str, error: Exception) -> None:
        _logger.debug("the coordinator did not answer %s: %r", method, error)
        self._metrics.unanswered(method)

    async def _retry_until_answered(self, method: str, *args: object) -> bool:
        deadline = time.monotonic() + self._give_up_s
        while True:
            try:
                return bool(await getattr(self._handle, method).remote(*args))
            except (RayError, RayServeException) as error:
                self._note_unanswered(method, error)
                if isinstance(error, StoreUnavailable):  # the coordinator answers, and will renew the lease
                    deadline = time.monotonic() + self._give_up_s
                elif time.monotonic() > deadline:
                    return False
                await asyncio.sleep(_RETRY_S)
