"""Notes about prompts that exceed the text encoder's token limit."""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from models.prompt_length import PromptLength, is_surely_whole
from models.weights.hub import cached_file
from models.weights_source import HubModel, WeightsSource
from serve_app.config.model_settings import ModelSettings

_TOKENIZER = "tokenizer/tokenizer.json"

_logger = logging.getLogger("ray.serve")


class PromptNotes:
    """Cache of the models' tokenizers, each loaded when the first long prompt for its model arrives.

    A model whose files are not on this machine, or that has no ``tokenizer.json``, gives no notes.
    """

    def __init__(self, models: Sequence[ModelSettings]) -> None:
        self._sources = {model.name: model.weights for model in models}
        self._lengths: dict[str, PromptLength] = {}
        self._reading = asyncio.Lock()

    async def of(self, model: str, prompt: str, negative_prompt: str) -> tuple[str, ...]:
        """Return a note for each of the two prompts that the text encoder of ``model`` will truncate."""
        named = [("The prompt", prompt), ("The negative prompt", negative_prompt)]
        long = [(name, text) for name, text in named if not is_surely_whole(text)]
        if not long:
            return ()
        length = await self._length(model)
        if length is None:
            return ()
        notes = [await asyncio.to_thread(length.cut_note, text, name) for name, text in long]
        return tuple(note for note in notes if note)

    async def _length(self, model: str) -> PromptLength | None:
        async with self._reading:  # it is read once, however many ask at once
            if model not in self._lengths:
                found = await asyncio.to_thread(_read, model, self._sources[model])
                if found is None:
                    return None  # a replica may fetch it yet
                self._lengths[model] = found
            return self._lengths[model]


def _read(model: str, source: WeightsSource) -> PromptLength | None:
    path = cached_file(source, _TOKENIZER) if isinstance(source, HubModel) else Path(source) / _TOKENIZER
    if path is None or not path.is_file():
        return None
    try:
        return PromptLength(path)
    except ValueError as error:
        _logger.warning("Long prompts for %s are cut without a note: %s", model, error)
        return None
