"""Pausing and resuming queues: a key's own, and a model's by an admin key."""

from collections.abc import Callable, Collection

from serve_app.errors import AdminOnly, InvalidField
from serve_app.store.pause_book import PauseBook
from serve_app.tasks.acts import Acts
from serve_app.tasks.caller import Caller
from serve_app.tasks.move_log import log_pause


class Pausing:
    """``models``: the served ones. ``nudge`` tells the coordinator that there may be something to begin."""

    def __init__(
        self, book: PauseBook, models: Collection[str], nudge: Callable[[], None], acts: Acts
    ) -> None:
        self._book = book
        self._models = models
        self._nudge = nudge
        self._acts = acts

    async def pause(self, caller: Caller, model: str | None) -> None:
        """Pause the caller's queue, or everybody's of a model. Raises ``AdminOnly`` or ``InvalidField``."""
        self._check(caller, model)
        await (self._book.pause_owner(caller.name) if model is None else self._book.pause_model(model))
        log_pause("pause", caller.name, model)
        self._acts.did(caller, "pause", model=model)

    async def resume(self, caller: Caller, model: str | None) -> None:
        """End a pause. Raises ``AdminOnly`` or ``InvalidField``."""
        self._check(caller, model)
        await (self._book.resume_owner(caller.name) if model is None else self._book.resume_model(model))
        log_pause("resume", caller.name, model)
        self._acts.did(caller, "resume", model=model)
        self._nudge()

    def _check(self, caller: Caller, model: str | None) -> None:
        if model is None:
            return
        if not caller.is_admin:
            raise AdminOnly("Only an admin key pauses and resumes a model; leave it out for your own queue.")
        if model not in self._models:
            raise InvalidField("model", f"model: must be one of {', '.join(self._models)}.")
