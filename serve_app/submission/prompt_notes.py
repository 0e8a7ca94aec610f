"""Notes on a task's prompts for the answer to its submit: what is not read of them, or not enhanced."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from models.prompt_length import PromptLength, is_surely_whole
from models.prompt_notes import prompt_name, prompt_notes
from models.weights.hub import cached_file
from models.weights_source import HubModel
from serve_app.config.model_settings import ModelSettings
from serve_app.submission.video_order import VideoOrder
from serve_app.tasks.task import TaskSpec

_TOKENIZER = "tokenizer/tokenizer.json"

_logger = logging.getLogger("ray.serve")


class PromptNotes:
    """Cache of the models' tokenizers, each loaded when the first long prompt for its model arrives.

    A model whose files are not on this machine, or that has no ``tokenizer.json``, is not asked about a
    prompt's length: the run tells it.
    """

    def __init__(self, models: Sequence[ModelSettings], *, has_enhancer: bool) -> None:
        self._has_enhancer = has_enhancer
        self._models = {model.name: model for model in models}
        self._lengths: dict[str, PromptLength] = {}
        self._reading = asyncio.Lock()

    def is_enhanced(self, order: VideoOrder) -> bool:
        """Return whether the order's prompt will be written out before it is read."""
        has_one = bool(order.prompt) and not order.fragment_prompts
        return self._has_enhancer and order.enhance_prompt and has_one

    async def of(self, model: str, order: VideoOrder, spec: TaskSpec) -> tuple[str, ...]:
        """Return the notes on the prompts of a task of ``model``, of that order.

        Of a prompt that will be written out, the run tells what is not read.
        """
        if self.is_enhanced(order):
            return await self._unread(model, {}, spec.negative_prompt)
        own = spec.fragment_prompts
        prompts = {prompt_name(own, index): prompt for index, prompt in enumerate(own or (spec.prompt,))}
        notes = await self._unread(model, prompts, spec.negative_prompt)
        if not order.enhance_prompt:
            return notes
        return (f"The prompt was not enhanced: {_why_not(order)}.", *notes)

    async def _unread(self, model: str, prompts: Mapping[str, str], negative_prompt: str) -> tuple[str, ...]:
        notes = partial(prompt_notes, self._models[model].spec, prompts, negative_prompt)
        if all(map(is_surely_whole, (*prompts.values(), negative_prompt))):
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


def _why_not(order: VideoOrder) -> str:
    if order.fragment_prompts:
        return "each fragment has its own"
    return "this service has no prompt enhancer" if order.prompt else "there is none"


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
