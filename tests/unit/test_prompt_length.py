"""The place where a long prompt is cut: as the text encoder's own tokenizer cuts it."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from models.limits import TEXT_TOKENS
from models.prompt_length import PromptLength, clean_prompt, is_surely_whole

TOKENIZER = Path("models/demo/weights/tokenizer")
PROMPTS = [
    "a red ball",
    "the " * 511,
    "the " * 512,
    "the " * 600 + "a red ball moves",
    "x" * 509,
    "  a &lt; b " * 300,
    "é猫" * 400,
    "a cat \ufdfa " * 100,
    "",
]


@pytest.fixture(scope="module")
def length() -> PromptLength:
    return PromptLength.from_file(TOKENIZER / "tokenizer.json")


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: f"{prompt[:12]}, {len(prompt)}")
def test_a_prompt_is_said_to_be_cut_when_the_text_encoder_cuts_it(length: PromptLength, prompt: str):
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    tokens = len(tokenizer(clean_prompt(prompt))["input_ids"])
    note = length.cut_note(prompt, "The prompt")
    assert (note is not None) == (tokens > TEXT_TOKENS)
    if is_surely_whole(prompt):
        assert note is None
    if note is not None:
        assert f"it has {tokens} tokens" in note


def test_the_note_says_what_is_left_out(length: PromptLength):
    note = length.cut_note("the " * 511 + "a red ball", "The prompt")
    assert note == (
        "The prompt was cut after 2043 of its 2054 characters, before “a red ball”: it has 515 tokens, "
        "and the text encoder reads 512."
    )


def test_a_place_is_found_among_signs_that_are_read_byte_by_byte(length: PromptLength):
    note = length.cut_note("猫" * 300, "The prompt")
    assert note is not None and "cut after 170 of its 300 characters" in note


def test_a_broken_file_is_no_tokenizer(tmp_path: Path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"^tokenizer\.json cannot be read$"):
        PromptLength.from_file(tmp_path / "tokenizer.json")


def test_a_prompt_of_plain_signs_is_cleaned_as_any_other() -> None:
    plain = "".join(map(chr, range(32, 127))).replace("&", "")
    for prompt in (plain, f"  {plain}  {plain} ", "", "   "):
        # A sign that is none of these has the prompt repaired at length, and stays itself.
        assert clean_prompt(prompt) == clean_prompt(f"{prompt}é").removesuffix("é").strip()
    assert clean_prompt("a &amp;lt; b") == "a < b"
