"""Prompts as the text encoder that is being trained sees them."""

from collections.abc import Sequence
from random import Random
from typing import Any

import torch

from models.demo.vocabulary import build_tokenizer
from training.dataset import scene_of
from training.velocity import Prompts


class PromptEncoder:
    """Embeds many prompts at once, each as the engine embeds it alone."""

    def __init__(self, text_encoder: Any) -> None:
        self._encoder = text_encoder
        self._tokenizer = build_tokenizer()

    def __call__(self, texts: Sequence[str]) -> Prompts:
        tokens = self._tokenizer(list(texts), padding=True, return_tensors="pt").to(self._encoder.device)
        hidden = self._encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
        return Prompts(hidden, tokens.attention_mask.sum(dim=1))


def wordings(numbers: Sequence[int], random: Random, dropped: float) -> list[str]:
    """A prompt for each clip, in some wording; a share of them empty, for guidance to steer away from."""
    return ["" if random.random() < dropped else scene_of(number).worded(random) for number in numbers]


def at_step(seed: int, step: int) -> tuple[torch.Generator, Random]:
    """The randomness of one step, whatever came before it."""
    mixed = (seed << 32) + step
    return torch.Generator().manual_seed(mixed), Random(mixed)
