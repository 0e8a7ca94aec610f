"""A surface's names for the fields of an order, and refusals that use them."""

import pytest

from serve_app.submission.field_words import FieldWords
from serve_app.submission.video_order import OrderFault, VideoOrder

WORDS = FieldWords({"duration_s": "seconds", "width": "size"})


def test_a_refusal_names_the_field_as_the_client_does():
    refusal = WORDS.refusal(OrderFault("duration_s", "is too long."))
    assert (refusal.field, refusal.detail) == ("seconds", "seconds: is too long.")


def test_a_field_without_a_word_keeps_the_orders_name():
    assert WORDS.refusal(OrderFault("seed", "is odd.")).field == "seed"


def test_a_part_of_a_field_is_named_by_its_path():
    words = FieldWords({"loras": "lora", "loras[0].name": "lora_name"})
    assert words["loras[0].name"] == "lora_name"
    assert (words["loras[1].name"], words["seed"]) == ("lora[1].name", "seed")


def test_one_request_may_spell_a_field_otherwise():
    assert (WORDS.but(width="canvas")["width"], WORDS["width"]) == ("canvas", "size")


def test_a_name_for_a_field_that_no_order_has_is_found_at_once():
    with pytest.raises(ValueError, match="order: duration"):
        FieldWords({"duration": "seconds"})


@pytest.mark.parametrize(
    ("frames", "kind"),
    [({}, "t2v"), ({"first_frame": b""}, "i2v"), ({"first_frame": "x", "last_frame": "y"}, "flf2v")],
)
def test_the_frames_of_an_order_say_what_kind_of_video_it_is(frames: dict[str, bytes | str], kind: str):
    assert (
        VideoOrder(
            prompt="a cat", first_frame=frames.get("first_frame"), last_frame=frames.get("last_frame")
        ).kind
        == kind
    )


def test_a_last_frame_needs_a_first():
    with pytest.raises(OrderFault) as fault:
        _ = VideoOrder(prompt="a cat", last_frame="x").kind
    assert fault.value.field == "last_frame"
