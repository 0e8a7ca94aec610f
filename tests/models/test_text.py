"""Prompt cleaning, embeddings and their cache."""

from pathlib import Path

import pytest
import torch
from diffusers.pipelines.wan.pipeline_wan import prompt_clean

from models.conditioning.text_encoder import TextEncoder
from models.prompt_length import PromptLength, clean_prompt
from testbed.text_encoders import own_text_encoder

from .conftest import Model


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "  a   cat \n\t runs ",
        "cats &amp; dogs",
        "cats &amp;lt;3 dogs",
        "a < b &amp;lt;3 dogs",
        "schÃ¶n cafÃ©",
        "“quoted” – dashed…",
        "两只猫　在打拳，全角",
        "\ufb01ne ligature",
        "a\u200bzero width",
    ],
)
def test_prompts_are_cleaned_as_diffusers_cleans_them(prompt: str) -> None:
    assert clean_prompt(prompt) == prompt_clean(prompt)


@pytest.mark.parametrize("prompt", ["", "a cat", "一只猫", "zyxw qqq ünknown words", "cat " * 700])
def test_embeddings_are_those_of_diffusers_without_the_filling(plain_model: Model, prompt: str) -> None:
    with torch.inference_mode():
        expected = plain_model.pipeline.encode_prompt(
            prompt, do_classifier_free_guidance=False, max_sequence_length=512
        )[0][0]
        actual = plain_model.text.encode(prompt)
    assert 1 <= len(actual) <= 512
    torch.testing.assert_close(actual, expected[: len(actual)], atol=1e-5, rtol=0)
    assert not expected[len(actual) :].any()


def test_the_encoder_says_what_it_cuts_and_goes_on_cutting(plain_model: Model, demo_weights: Path) -> None:
    text = plain_model.text
    long = "the " * 600 + "a red ball"
    note = text.cut_note(long, "The prompt")
    file = PromptLength.from_file(demo_weights / "tokenizer" / "tokenizer.json")
    assert note is not None and note == file.cut_note(long, "The prompt"), "as the service tells at submit"
    assert text.cut_note("the " * 500, "The prompt") is None
    with torch.inference_mode():
        assert len(text.encode(long)) == 512


class CountingEncoder:
    """The real encoder, with its calls counted."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        self._encoder = encoder
        self.device = torch.device("cpu")
        self.calls = 0

    def __call__(self, *arguments: torch.Tensor) -> object:
        self.calls += 1
        with torch.inference_mode():
            return self._encoder(*arguments)


def counted(model: Model, cache_bytes: int) -> tuple[TextEncoder, CountingEncoder]:
    encoder = CountingEncoder(own_text_encoder(model.pipeline.text_encoder))
    return TextEncoder(model.pipeline.tokenizer.backend_tokenizer, encoder, cache_bytes), encoder


def test_a_prompt_is_encoded_once(plain_model: Model) -> None:
    text, encoder = counted(plain_model, 10_000)
    first = text.encode("a cat")
    assert torch.equal(text.encode(" a  cat "), first)
    assert encoder.calls == 1
    text.encode("a dog")
    assert encoder.calls == 2


def test_the_cache_never_holds_more_bytes_than_it_may(plain_model: Model) -> None:
    text, _ = counted(plain_model, 3000)
    for number in range(30):
        text.encode(f"cat {number}")
        assert 0 < text.cached_bytes <= 3000
    assert 0 < text.evictions < 30


def test_the_prompt_used_longest_ago_goes_first(plain_model: Model) -> None:
    size = counted(plain_model, 0)[0].encode("cat").nbytes
    text, encoder = counted(plain_model, 2 * size)
    for prompt in ("cat", "dog", "cat", "bird"):  # dog goes
        text.encode(prompt)
    assert encoder.calls == 3
    text.encode("cat")
    assert encoder.calls == 3
    text.encode("dog")
    assert encoder.calls == 4


def test_an_embedding_larger_than_the_cache_pushes_nothing_out(plain_model: Model) -> None:
    size = counted(plain_model, 0)[0].encode("cat").nbytes
    text, encoder = counted(plain_model, size)
    text.encode("cat")
    text.encode("a much longer prompt about a cat")
    text.encode("cat")
    assert encoder.calls == 2
