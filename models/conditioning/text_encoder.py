"""The text encoder: prompts to UMT5 embeddings, with an LRU cache."""

from collections import OrderedDict
from typing import Any, Protocol

import torch
from tokenizers import Tokenizer
from torch import Tensor

from models.limits import TEXT_TOKENS
from models.prompt_length import PromptLength, clean_prompt, is_surely_whole

DEFAULT_CACHE_BYTES = 64 * 1024 * 1024


class Text(Protocol):
    """Encodes prompts for the transformer."""

    @property
    def evictions(self) -> int:
        """How many prompts its cache has dropped for others so far."""

    def encode(self, prompt: str) -> Tensor:
        """Embed a prompt, ``[n, text_dim]`` with 1 ≤ n ≤ 512, without padding tokens."""

    def cut_note(self, prompt: str, name: str) -> str | None:
        """Return a sentence about what of ``prompt`` ``encode`` leaves out, None for nothing; ``name`` begins
        it.
        """


class TextEncoder:
    """UMT5 with an LRU cache by cleaned prompt, bounded in bytes.

    The cache is the only state that runs share. An embedding depends on its prompt alone, so the cache never
    changes a video.
    """

    def __init__(self, tokenizer: Tokenizer, encoder: Any, cache_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        self._tokenizer = tokenizer
        self.encoder = encoder
        self._cache: OrderedDict[str, Tensor] = OrderedDict()
        self._cache_bytes = cache_bytes
        self._cached_bytes = 0
        self.evictions = 0
        """How many embeddings were dropped for others."""

    @property
    def cached_bytes(self) -> int:
        """Bytes of the cached embeddings."""
        return self._cached_bytes

    def encode(self, prompt: str) -> Tensor:
        """Embed a prompt, ``[n, text_dim]`` with 1 ≤ n ≤ 512, without padding tokens."""
        prompt = clean_prompt(prompt)
        embeddings = self._cache.get(prompt)
        if embeddings is None:
            embeddings = self._encode(prompt)
            self._remember(prompt, embeddings)
        else:
            self._cache.move_to_end(prompt)
        return embeddings

    def cut_note(self, prompt: str, name: str) -> str | None:
        """Return a sentence about what of ``prompt`` is beyond the 512 tokens, None for nothing."""
        if is_surely_whole(prompt):
            return None
        return PromptLength(self._tokenizer).cut_note(prompt, name)

    def _encode(self, prompt: str) -> Tensor:
        # Without padding: attention would mask it out, so the prompt's own tokens come out the same.
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(TEXT_TOKENS)
        tokens = torch.tensor([self._tokenizer.encode(prompt).ids])
        hidden: Tensor = self.encoder(tokens.to(self.encoder.device))
        return hidden[0]

    def _remember(self, prompt: str, embeddings: Tensor) -> None:
        if embeddings.nbytes > self._cache_bytes:
            return
        self._cache[prompt] = embeddings
        self._cached_bytes += embeddings.nbytes
        while self._cached_bytes > self._cache_bytes:
            _, evicted = self._cache.popitem(last=False)
            self._cached_bytes -= evicted.nbytes
            self.evictions += 1
