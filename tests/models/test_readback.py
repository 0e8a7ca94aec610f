"""Frames come back in order, and on a GPU while it has the next chunk to work on."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from models.pipeline.readback import read_back


@pytest.mark.parametrize(
    ("ahead", "expected"),
    [
        (False, "made 0, taken 0, made 1, taken 1, made 2, taken 2"),
        (True, "made 0, made 1, taken 0, made 2, taken 1, taken 2"),
    ],
)
def test_a_chunk_is_taken_once_the_next_one_is_on_its_way(ahead: bool, expected: str) -> None:
    seen = []

    def made() -> Iterator[Tensor]:
        for number in range(3):
            seen.append(f"made {number}")
            yield torch.full((2, 1, 1, 3), number, dtype=torch.uint8)

    for frames in read_back(made(), ahead):
        assert frames.shape == (2, 1, 1, 3)
        seen.append(f"taken {frames[0, 0, 0, 0]}")
    assert ", ".join(seen) == expected


@pytest.mark.parametrize("ahead", [False, True])
def test_no_chunk_is_no_frame(ahead: bool) -> None:
    assert list(read_back(iter(()), ahead)) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="copies from a CUDA device")
def test_frames_of_a_device_are_whole_when_they_are_taken() -> None:
    def made() -> Iterator[Tensor]:
        for number in range(8):
            factor = torch.eye(4096, device="cuda")
            for _ in range(20):  # work that the copy must wait for
                factor = factor @ factor
            chunk = torch.full((4, 480, 832, 3), number, dtype=torch.float32, device="cuda")
            yield (chunk * factor[0, 0]).to(torch.uint8)

    for number, frames in enumerate(read_back(made(), ahead=True)):
        assert (frames == number).all()
