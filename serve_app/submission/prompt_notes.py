"""Notes about what a model does not read of a task's prompts, for the answer to its submit."""

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from models.prompt_length import PromptLength, is_surely_whole
from models.prompt_notes import prompt_notes
from models.weights.hub import cached_file
from models.weights_source import HubModel
from serve_app.config.model_settings import ModelSettings

_TOKENIZER = "tokenizer/tokenizer.json"

_logger = logging.getLogger("ray.serve")


class PromptNotes:
    """Cache of the models' tokenizers, each loaded when the first long prompt for its model arrives.

    A model whose files are not on this machine, or that has no ``tokenizer.json``, is not asked about a
    prompt's length: the run tells it.
    """

    def __init__(self, models: Sequence[ModelSettings]) -> None:
        self._models = {model.name: model for model in models}
        self._lengths: dict[str, PromptLength] = {}
        self._reading = asyncio.Lock()

    async def of(self, model: str, prompt: str, negative_prompt: str) -> tuple[str, ...]:
        """Return the notes on the two prompts of a task of ``model``."""
        notes = partial(prompt_notes, self._models[model].spec, prompt, negative_prompt)
        if is_surely_whole(prompt) and is_surely_whole(negative_prompt):
            return notes(_not_cut)
        length = await self._length(model)
        return await asyncio.to_thread(notes, _not_cut if length is None else length.cut_note)

    async def _length(self, model: str) -> PromptLength | None:
        async with self._reading:  # it is read once, however many ask at once
            if model not in self._lengths:
                found = await asyncio.to_thread(_read, self._models[model])
                if found is None:
                    return None  # a replica may fetch it yet
                self._lengths[model] = found
            return self._lengths[model]


def _read(model: ModelSettings) -> PromptLength | None:
    source = model.weights
    path = cached_file(source, _TOKENIZER) if isinstance(source, HubModel) else Path(source) / _TOKENIZER
    if path is None or not path.is_file():
        return None
    try:
        return PromptLength.from_file(path)
    except ValueError as error:
        _logger.warning("Long prompts for %s are cut without a note at submit: %s", model.name, error)
        return None


def _not_cut(prompt: str, name: str) -> None:
    """Return no note: the prompt is read whole, or there is no tokenizer to ask."""
