"""Notes on the prompts of a request: what of them the model does not read. Imports no torch."""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence

from models.prompt_length import clean_prompt
from models.variants import Variant

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_WORDS_SHOWN = 8
_LETTERS_SHOWN = 24

CutNote = Callable[[str, str], str | None]
"""Returns a sentence about what of a prompt the text encoder cuts, None for nothing; takes the prompt and the
words that begin the sentence.
"""


def prompt_name(fragment_prompts: Sequence[str], fragment: int) -> str:
    """Return the words that begin a sentence about the prompt of a fragment, by its index."""
    return f"The prompt of fragment {fragment + 1}" if fragment_prompts else "The prompt"


def prompt_notes(
    variant: Variant, prompts: Mapping[str, str], negative_prompt: str, cut_note: CutNote
) -> tuple[str, ...]:
    """Return a sentence for each thing in the prompts that ``variant`` does not read.

    ``prompts``: by the words that begin a sentence about each. A service tells them at submit and again from
    the run, so equal prompts give equal sentences.
    """
    named = (*prompts.items(), ("The negative prompt", negative_prompt))
    notes = [
        note
        for name, text in named
        for note in (cut_note(text, name), _unknown_words_note(variant, text, name))
    ]
    return tuple(note for note in notes if note is not None)


def _unknown_words_note(variant: Variant, prompt: str, name: str) -> str | None:
    """Return a sentence with the words of ``prompt`` that a model of a small vocabulary does not know."""
    if not variant.vocabulary:
        return None
    words = _WORD.findall(unicodedata.normalize("NFKC", clean_prompt(prompt)).lower())
    unknown = [word for word in dict.fromkeys(words) if word not in variant.vocabulary]
    if not unknown:
        return None
    shown = [
        word if len(word) <= _LETTERS_SHOWN else f"{word[:_LETTERS_SHOWN]}…"
        for word in unknown[:_WORDS_SHOWN]
    ]
    more = f" and {len(unknown) - _WORDS_SHOWN} more" if len(unknown) > _WORDS_SHOWN else ""
    return f"{name} has words that {variant.name} does not know: {', '.join(shown)}{more}."
