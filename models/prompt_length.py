"""How much of a prompt the text encoder reads, told from its tokenizer alone. Imports no torch."""

import html
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from models.limits import TEXT_TOKENS

_SURE_BYTES = TEXT_TOKENS - 12
"""A prompt of so few bytes is never cut: no tokenizer makes more than a token of a byte, and a few marks."""
_SHOWN = 40


def clean_prompt(prompt: str) -> str:
    """Clean a prompt as in training: repair its encoding, unescape HTML, collapse whitespace."""
    if prompt.isascii() and prompt.isprintable() and "&" not in prompt:
        return " ".join(prompt.split())  # nothing is to be repaired, which ftfy takes long to find
    import ftfy  # whose tables take long to import, for the prompts that need them

    # Entities are sometimes escaped twice ("&amp;lt;"), hence the second unescape.
    repaired = html.unescape(html.unescape(ftfy.fix_text(prompt)))
    return re.sub(r"\s+", " ", repaired).strip()


def is_surely_whole(prompt: str) -> bool:
    """Tell whether the prompt is so short that no tokenizer needs to be asked."""
    # Tokenizers write some signs out: U+FDFA alone is eighteen letters.
    return len(unicodedata.normalize("NFKC", prompt).encode()) <= _SURE_BYTES


class PromptLength:
    """Counts a prompt's tokens as the model's text encoder does."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Turns off the truncation and the padding of ``tokenizer``."""
        self._tokenizer = tokenizer
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    @classmethod
    def from_file(cls, file: Path) -> "PromptLength":
        """Read a ``tokenizer.json``, in about a second. Raises ``ValueError`` where that cannot be read."""
        try:
            return cls(Tokenizer.from_file(str(file)))
        except Exception as error:  # the library raises no other type
            raise ValueError(f"{file.name} cannot be read") from error

    def cut_note(self, prompt: str, name: str) -> str | None:
        """Return a sentence about what of ``prompt`` is not read, None if all is; ``name`` begins it."""
        cleaned = clean_prompt(prompt)
        encoding = self._tokenizer.encode(cleaned)
        if len(encoding.ids) <= TEXT_TOKENS:
            return None
        marks = sum(encoding.special_tokens_mask)  # the end mark is always read
        begin = _begin_of(TEXT_TOKENS - marks, encoding.offsets, cleaned)
        left_out = cleaned[begin:].strip()
        shown = left_out if len(left_out) <= _SHOWN else f"{left_out[:_SHOWN].rstrip()}…"
        return (
            f"{name} was cut after {begin} of its {len(cleaned)} characters, before “{shown}”: it has "
            f"{len(encoding.ids)} tokens, and the text encoder reads {TEXT_TOKENS}."
        )


def _begin_of(number: int, spans: Sequence[tuple[int, int]], text: str) -> int:
    """Return the place in ``text`` where a token begins."""
    begin, end = spans[number]
    # Signs that the vocabulary lacks are read byte by byte, and each byte has the span of them all.
    bytes_before = number - spans.index((begin, end))
    return begin + len(text[begin:end].encode()[:bytes_before].decode(errors="ignore"))
