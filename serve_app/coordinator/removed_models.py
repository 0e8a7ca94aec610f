"""What becomes of the tasks of models and LoRAs that were taken out of the configuration."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from functools import partial

from serve_app.config.model_settings import ModelSettings
from serve_app.config.settings import TaskSettings
from serve_app.coordinator.successor import misfit
from serve_app.store.database import Database
from serve_app.store.run_ledger import RunLedger
from serve_app.store.served_models import ServedModels
from serve_app.store.stranded_tasks import Reassignment, Settlement, StrandedTasks
from serve_app.tasks.task import Task, TaskError
from serve_app.tasks.work import tokens_of, work_of

MODEL_REMOVED = "model_removed"
_ENDS_BY_ITSELF = "they fail once no service has had it for {:g} s, unless a model names it in replaces"
_LORAS_MISSING = (
    "Not in the folder any more: the LoRAs {}. Unless they come back, the task fails at its turn."
)
_logger = logging.getLogger("ray.serve")


class RemovedModels:
    """Has a successor make what waits for a removed model, or fails it once that has been gone for long.

    Each service says which models it has. A task fails only when none has had its model for so long, and at
    once only where a successor cannot make it and no other service that lives could.
    """

    def __init__(
        self,
        database: Database,
        ledger: RunLedger,
        models: Sequence[ModelSettings],
        rules: TaskSettings,
        on_settled: Callable[[Task], None],
    ) -> None:
        """``on_settled`` is called with each task that got another model or has failed."""
        self._ledger = ledger
        self._tasks = StrandedTasks(database, ledger.epoch)
        self._served = ServedModels(database)
        self._models = {model.name: model for model in models}
        self._successors = {name: model for model in models for name in model.replaces}
        self._rules = rules
        self._on_settled = on_settled
        self._told: Collection[str] = ()

    async def run(self) -> None:
        """Look in each of the janitor's periods, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(self._rules.janitor_period_s)

    async def look(self) -> None:
        """Say which models are served here, and, as the leader, settle the tasks of others.

        Raises ``Superseded``.
        """
        await self._served.note(self._models)
        if not self._ledger.seat.leads:
            self._told = ()
            return
        waiting = await self._tasks.counts(but=self._models)
        if waiting:
            await self._settle(waiting)
        self._tell(self._lines(waiting))
        await self._look_for_loras()

    async def _settle(self, waiting: Mapping[str, int]) -> None:
        last = await self._served.last()
        if unknown := waiting.keys() - last.keys():
            await self._served.note(unknown)
        for model in waiting:
            gone_s = time.time() - last.get(model, time.time())
            for task in await self._tasks.settle(model, partial(self._settled, gone_s=gone_s)):
                self._on_settled(task)

    def _settled(self, task: Task, *, gone_s: float) -> Settlement:
        successor = self._successors.get(task.model)
        reason = None if successor is None else misfit(task.spec, successor)
        if successor is not None and reason is None:
            return _reassigned(task, successor)
        if gone_s < (self._rules.removed_after_s if successor is None else self._rules.unnamed_s):
            return None
        said = f"The model {task.model} is not served any more"
        if successor is not None:
            said += f", and {successor.name}, which replaces it, {reason}"
        return TaskError(MODEL_REMOVED, said)

    def _lines(self, waiting: Mapping[str, int]) -> Mapping[str, str]:
        """Return what the log is to say of each removed model, by the model."""
        lines = {}
        for model, count in waiting.items():
            successor = self._successors.get(model)
            end = (
                _ENDS_BY_ITSELF.format(self._rules.removed_after_s)
                if successor is None
                else f"{successor.name} makes those that it can"
            )
            lines[model] = (
                f"{count} tasks wait for the model {model}, which is not configured any more: {end}"
            )
        return lines

    async def _look_for_loras(self) -> None:
        """Tell of each removed LoRA that tasks of a served model name, in the log and in the tasks' notes."""
        for model in self._models.keys() & set(await self._tasks.models_with_loras()):
            there = frozenset(await asyncio.to_thread(self._models[model].lora_names))
            noted = await self._tasks.settle(model, partial(_noted, there=there), with_loras=True)
            for note, count in Counter(task.notes[-1] for task in noted).items():
                _logger.warning("%d tasks of the model %s wait. %s", count, model, note)

    def _tell(self, lines: Mapping[str, str]) -> None:
        """Log each line, but for those that were there the last time."""
        for name in lines.keys() - set(self._told):
            _logger.warning(lines[name])
        self._told = lines.keys()


def _noted(task: Task, *, there: Set[str]) -> Settlement:
    """Have a task say which of its LoRAs are missing, once."""
    missing = [use.name for use in task.spec.loras if use.name not in there]
    note = _LORAS_MISSING.format(", ".join(missing))
    if not missing or note in task.notes:
        return None
    return Reassignment(task.model, task.work, task.tokens, (*task.notes, note))


def _reassigned(task: Task, model: ModelSettings) -> Reassignment:
    tokens = tokens_of(task.spec, model.spec, len(task.spec.reference_keys))
    work = work_of(task.spec, tokens, model.step_shares)
    notes = (*task.notes, model.succession_note(task.model))
    return Reassignment(model.name, work, tokens, notes)
