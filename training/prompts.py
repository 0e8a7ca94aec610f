"""Prompts for the text encoder in training."""

from collections.abc import Sequence
from random import Random
from typing import Any

import torch

from models.demo.vocabulary import build_tokenizer
from training.dataset import scene_of
from training.velocity import Prompts


class PromptEncoder:
    """Embeds a batch of prompts, each to the embedding that the engine computes for the prompt alone."""

    def __init__(self, text_encoder: Any) -> None:
        self._encoder = text_encoder
        self._tokenizer = build_tokenizer()

    def __call__(self, texts: Sequence[str]) -> Prompts:
        """Embed the texts, padded to the longest of them."""
        tokens = self._tokenizer(list(texts), padding=True, return_tensors="pt").to(self._encoder.device)
        hidden = self._encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
        return Prompts(hidden, tokens.attention_mask.sum(dim=1))


def wordings(numbers: Sequence[int], random: Random, dropped: float) -> list[str]:
    """Draw a wording for each clip's prompt; a share is empty, for classifier-free guidance."""
    return ["" if random.random() < dropped else scene_of(number).worded(random) for number in numbers]


def at_step(seed: int, step: int) -> tuple[torch.Generator, Random]:
    """Return a generator for one step that depends on nothing but seed and step."""
    mixed = (seed << 32) + step
    return torch.Generator().manual_seed(mixed), Random(mixed)
