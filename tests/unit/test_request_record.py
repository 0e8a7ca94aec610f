"""The record of a request in its row."""

import pytest

from serve_app.submission.field_words import FieldWords
from serve_app.submission.request_record import digest, without_pictures
from serve_app.submission.video_order import VideoOrder

WORDS = FieldWords({"first_frame": "start"})
SENT = {"seed": 1, "prompt": "a cat"}


def test_a_digest_is_the_same_in_every_version_so_that_idempotency_keys_outlive_an_upgrade():
    order = VideoOrder(prompt="a cat", first_frame=b"x", sent=SENT)
    assert digest(order) == "ca5b9491e7db4810fa8d0dc408a0987840325ce016d06c69126c732c47aa1af9"


@pytest.mark.parametrize(
    "other",
    [
        VideoOrder(prompt="a cat", sent=SENT),
        VideoOrder(prompt="a cat", first_frame=b"y", sent=SENT),
        VideoOrder(prompt="a cat", first_frame=b"", last_frame=b"x", sent=SENT),
        VideoOrder(prompt="a cat", first_frame=b"x", sent={**SENT, "seed": 2}),
    ],
)
def test_another_request_has_another_digest(other: VideoOrder):
    assert digest(other) != digest(VideoOrder(prompt="a cat", first_frame=b"x", sent=SENT))


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("iVBORw0KGgo", "(11 characters left out)"),
        ("data:image/png;base64,AAAA", "(26 characters left out)"),
        ("x" * 5000 + ".png", "(5004 characters left out)"),
        ("cats/one.png", "cats/one.png"),
        ("https://example.com/cat", "https://example.com/cat"),
        ("", ""),
    ],
)
def test_pictures_are_left_out_and_their_names_kept(text: str, kept: str):
    order = VideoOrder(prompt="a cat", first_frame=text, sent={"start": text, "prompt": "a cat"})
    assert without_pictures(order, WORDS) == {"start": kept, "prompt": "a cat"}
