"""The transformer in training computes the numbers of diffusers'."""

import pytest
import torch

from models.conditioning.text_encoder import TextEncoder
from models.demo.architecture import build_text_encoder, build_transformer
from models.demo.vocabulary import build_tokenizer
from models.limits import TEXT_TOKENS
from testbed.text_encoders import own_text_encoder
from training.prompts import PromptEncoder
from training.velocity import Prompts, Velocity

PROMPTS = ["a red ball moving left to right on a blue background", "green box falling", ""]


@torch.no_grad()
def test_many_videos_with_prompts_of_their_own_have_the_numbers_of_diffusers() -> None:
    torch.manual_seed(0)
    transformer = build_transformer().eval()
    channels = transformer.config.in_channels
    latents, timesteps = torch.randn(3, channels, 3, 4, 2), torch.rand(3, 3) * 1000
    embeddings, lengths = torch.randn(3, 14, 128), torch.tensor([14, 9, 1])
    made = Velocity(transformer)(latents, timesteps, Prompts(embeddings, lengths))
    filled = torch.zeros(3, TEXT_TOKENS, 128)
    for number, length in enumerate(lengths):
        filled[number, :length] = embeddings[number, :length]
    tokens_of_a_frame = 4 * 2 // 4
    expected = transformer(latents, timesteps.repeat_interleave(tokens_of_a_frame, 1), filled).sample
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_prompts_together_are_embedded_as_the_engine_embeds_each_alone() -> None:
    torch.manual_seed(0)
    encoder = build_text_encoder().eval()
    together = PromptEncoder(encoder)(PROMPTS)
    alone = TextEncoder(build_tokenizer().backend_tokenizer, own_text_encoder(encoder))
    for number, prompt in enumerate(PROMPTS):
        expected = alone.encode(prompt)
        assert together.lengths[number] == len(expected)
        torch.testing.assert_close(together.embeddings[number, : len(expected)], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("length", [1, 14])
def test_padding_behind_a_prompt_is_not_attended_to(length: int) -> None:
    torch.manual_seed(0)
    transformer = build_transformer().eval()
    velocity = Velocity(transformer)
    latents, timesteps = torch.randn(1, transformer.config.in_channels, 1, 2, 2), torch.tensor([[500.0]])
    embeddings = torch.randn(1, 14, 128)
    other = embeddings.clone()
    other[:, length:] = 7.0
    with torch.no_grad():
        one, two = (
            velocity(latents, timesteps, Prompts(each, torch.tensor([length])))
            for each in (embeddings, other)
        )
    assert torch.equal(one, two)
