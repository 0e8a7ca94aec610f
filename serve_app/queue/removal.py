"""The end of the tasks that wait for models which were taken out of the configuration."""

import time
from collections.abc import Collection, Mapping, Set

from serve_app.store.served_models import ServedModels


class Removal:
    """When the waiting tasks of removed models fail."""

    def __init__(self, served: ServedModels, models: Collection[str], *, after_s: float) -> None:
        """``models``: those of the configuration; ``after_s``: how long tasks wait for any other."""
        self._served = served
        self._models = models
        self._after_s = after_s

    async def ends(self, waiting: Set[str]) -> Mapping[str, float]:
        """Return when the tasks of those models that were removed fail, in seconds since 1970."""
        removed = waiting - set(self._models)
        if not removed:
            return {}
        last = await self._served.last()
        return {model: last.get(model, time.time()) + self._after_s for model in removed}
