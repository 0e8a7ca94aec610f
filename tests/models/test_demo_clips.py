"""The clips that the demo model is taught, and the judge that tells each scene from every other."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from models.demo.clips import FRAMES, HEIGHT, WIDTH, draw
from models.demo.grammar import BACKGROUNDS, COLOURS, EXAMPLES, MOTIONS, SCENES, SHAPES, Scene, words
from models.demo.score import score, track_of
from models.demo.silhouette import Silhouettes
from models.demo.vocabulary import build_tokenizer
from models.engine import Frames
from models.variants import VARIANTS

RED_BALL = Scene("ball", "red", "blue", "right")


def clip(scene: Scene, seed: int = 0) -> Frames:
    return draw(scene, np.random.default_rng(seed))


def _drawings(shape: str, seeds: range) -> list[Frames]:
    """Draw frames of a shape that grows and of one that turns, by turns: all sizes and angles."""
    motions = ("grows", "spins" if shape != "ball" else "right")
    return [
        draw(
            Scene(shape, "red", "white", motions[seed % 2]),
            np.random.default_rng(seed),
            slice(seed % FRAMES, seed % FRAMES + 1),
        )
        for seed in seeds
    ]


def _blurred(frames: Frames, radius: int) -> Frames:
    pictures = [Image.fromarray(frame).filter(ImageFilter.GaussianBlur(radius)) for frame in frames]
    return np.stack([np.asarray(picture) for picture in pictures])


def test_a_clip_is_drawn_from_its_seed() -> None:
    frames = clip(RED_BALL)
    assert frames.shape == (FRAMES, HEIGHT, WIDTH, 3) and frames.dtype == np.uint8
    assert np.array_equal(frames, clip(RED_BALL))
    assert not np.array_equal(frames, clip(RED_BALL, seed=1))


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_a_clip_is_judged_right_for_its_own_scene(shape: str) -> None:
    scenes = [scene for scene in SCENES if scene.shape == shape]
    judged = {scene.prompt: score(frames := clip(scene), scene, frames[0]) for scene in scenes}
    wrong = {prompt: each for prompt, each in judged.items() if not (each.everything and each.first_frame)}
    assert judged and not wrong


@pytest.mark.parametrize("motion", MOTIONS)
def test_no_other_motion_is_taken_for_one(motion: str) -> None:
    frames = clip(Scene("star", "red", "white", motion))
    found = [other for other in MOTIONS if score(frames, Scene("star", "red", "white", other)).motion]
    assert found == [motion]


@pytest.mark.slow
def test_each_shape_is_told_at_every_size_and_angle() -> None:
    sizes = range(100)
    told = {
        shape: [
            score(drawn, Scene(shape, "red", "white", "grows")).shape for drawn in _drawings(shape, sizes)
        ]
        for shape in SHAPES
    }
    assert min(sum(right) for right in told.values()) >= 0.99 * len(sizes), told


@pytest.mark.parametrize("shape", SHAPES)
def test_no_other_shape_is_taken_for_one(shape: str) -> None:
    frames = clip(Scene(shape, "red", "white", "right"))
    found = [other for other in SHAPES if score(frames, Scene(other, "red", "white", "right")).shape]
    assert found == [shape]


@pytest.mark.parametrize("shape", sorted(set(SHAPES) - {"ball"}))
def test_a_blob_is_not_taken_for_the_shape_that_it_was_blurred_from(shape: str) -> None:
    frames = clip(Scene(shape, "red", "white", "right"))
    found = [
        score(_blurred(frames, radius), Scene(shape, "red", "white", "right")).shape
        for radius in (1, 2, 9, 12)
    ]
    assert found == [True, True, False, False], "a little softness leaves it what it is"


def test_a_pentagon_as_a_blurred_star_is_no_star_and_no_ball_either() -> None:
    picture = Image.new("1", (WIDTH, HEIGHT))
    ImageDraw.Draw(picture).regular_polygon((WIDTH / 2, HEIGHT / 2, 30), n_sides=5, fill=1)
    assert Silhouettes.of(np.asarray(picture)[None]).shape == ""


def test_a_shape_that_leaves_the_picture_is_judged_by_the_frames_that_have_all_of_it() -> None:
    masks = np.zeros((3, HEIGHT, WIDTH), bool)
    masks[0, :40, 20:60] = masks[1, 16:56, 20:60] = True  # a square that comes in, and is then gone
    silhouettes = Silhouettes.of(masks)
    assert silhouettes.is_whole.tolist() == [False, True, False] and silhouettes.shape == "square"
    assert Silhouettes.of(masks[::2]).shape == ""


@pytest.mark.parametrize(
    ("field", "names"), [("colour", COLOURS), ("background", BACKGROUNDS)], ids=["colour", "background"]
)
def test_no_other_colour_is_taken_for_one(field: str, names: list[str]) -> None:
    frames = clip(RED_BALL)
    right = [name for name in names if getattr(score(frames, replace(RED_BALL, **{field: name})), field)]
    assert right == [getattr(RED_BALL, field)]


def test_a_clip_that_stands_still_is_empty_or_trembles_has_no_motion() -> None:
    still = np.repeat(clip(RED_BALL)[8:9], FRAMES, axis=0)
    trembling = np.stack([np.roll(frame, number % 2, axis=0) for number, frame in enumerate(still)])
    for frames in (still, trembling):
        track = track_of(frames, "ball")
        assert track is not None and track.motion == ""
    assert track_of(np.full_like(still, 130), "ball") is None


def test_another_first_frame_is_not_taken_for_the_given_one() -> None:
    frames = clip(RED_BALL)
    assert not score(frames, RED_BALL, frames[8]).first_frame
    assert not score(frames, RED_BALL, clip(replace(RED_BALL, colour="green"))[0]).first_frame


def test_every_word_is_one_token_of_the_model() -> None:
    tokenizer = build_tokenizer()
    assert all(len(tokenizer(word).input_ids) == 2 for word in words()), "the word and the end"


def test_every_scene_can_be_told_by_its_prompt() -> None:
    assert len({scene.prompt for scene in SCENES}) == len(SCENES)
    assert set(EXAMPLES) <= set(SCENES)
    assert {scene.motion for scene in EXAMPLES} == set(MOTIONS) - {"spins"}
    assert {scene.shape for scene in EXAMPLES} == set(SHAPES)


def test_the_vocabulary_of_the_model_is_that_of_the_grammar() -> None:
    assert VARIANTS["demo"].vocabulary == VARIANTS["demo-distill"].vocabulary == set(words())


def test_the_example_prompts_of_the_model_are_those_of_the_grammar() -> None:
    prompts = tuple(scene.prompt for scene in EXAMPLES)
    assert VARIANTS["demo"].example_prompts == VARIANTS["demo-distill"].example_prompts == prompts
