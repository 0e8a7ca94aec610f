"""The table of variants, and the rules that round a size to one that a model can make."""

import ast
import subprocess
import sys
import tomllib
from itertools import chain, product
from pathlib import Path

import pytest

from models.errors import InvalidRequest
from models.fit import fit, frames_for
from models.variants import VARIANTS, Variant

ROOT = Path(__file__).parents[2]

SIZES = [1, 15, 16, 17, 31, 32, 64, 100, 112, 480, 481, 704, 720, 832, 1280, 1920, 4096, 100_000]


def test_names_are_those_of_the_entries() -> None:
    assert all(name == variant.name for name, variant in VARIANTS.items())
    assert {"demo", "wan2.1-t2v-1.3b", "wan2.1-t2v-14b", "wan2.2-ti2v-5b"} <= VARIANTS.keys()
    assert {"wan2.1-i2v-14b-480p", "wan2.1-i2v-14b-720p", "wan2.1-flf2v-14b"} <= VARIANTS.keys()
    assert {"wan2.1-vace-1.3b", "wan2.1-vace-14b"} <= VARIANTS.keys()
    assert {"wan2.2-t2v-a14b", "wan2.2-i2v-a14b"} <= VARIANTS.keys()


@pytest.mark.parametrize("name", VARIANTS)
def test_the_defaults_of_a_variant_fit_it_as_they_are(name: str) -> None:
    variant = VARIANTS[name]
    fitted = fit(variant, variant.width, variant.height, variant.num_frames)
    assert (fitted.width, fitted.height, fitted.num_frames) == (
        variant.width,
        variant.height,
        variant.num_frames,
    )
    assert fitted.notes == ()


@pytest.mark.parametrize("name", VARIANTS)
def test_a_size_is_a_whole_number_of_tokens(name: str) -> None:
    variant = VARIANTS[name]
    assert variant.size_multiple % (variant.spatial_stride * variant.patch) == 0


@pytest.mark.parametrize("name", VARIANTS)
def test_a_second_guidance_scale_goes_with_a_second_expert(name: str) -> None:
    variant = VARIANTS[name]
    assert (variant.guidance_scale_2 is None) == (variant.boundary is None)


@pytest.mark.parametrize("name", [name for name in VARIANTS if name.endswith("-distill")])
def test_a_distilled_form_takes_four_steps_without_guidance(name: str) -> None:
    variant, base = VARIANTS[name], VARIANTS[name.removesuffix("-distill")]
    assert (variant.distilled, variant.steps, variant.guidance_scale, variant.flow_shift) == (
        True,
        4,
        1.0,
        5.0,
    )
    assert variant.guidance_scale_2 in (None, 1.0)
    assert not base.distilled
    assert (variant.width, variant.height, variant.max_area) == (base.width, base.height, base.max_area)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_fit_is_within_every_limit_or_a_refusal(name: str) -> None:
    for width, height in product(SIZES, SIZES):
        check_size(VARIANTS[name], width, height)


def check_size(variant: Variant, width: int, height: int) -> None:
    try:
        fitted = fit(variant, width, height, 5)
    except InvalidRequest as error:
        assert variant.oversize == "refuse"
        assert error.field == "width"
        assert str(variant.max_area) in str(error)
        return
    assert fitted.width % variant.size_multiple == fitted.height % variant.size_multiple == 0
    assert min(fitted.width, fitted.height) >= variant.size_multiple
    assert fitted.width * fitted.height <= variant.max_area
    assert bool(fitted.notes) == ((fitted.width, fitted.height) != (width, height))
    assert fit(variant, fitted.width, fitted.height, 5).notes == ()


@pytest.mark.parametrize("name", VARIANTS)
def test_a_frame_count_is_four_k_plus_one_or_a_refusal(name: str) -> None:
    for num_frames in range(1, 240):
        check_frame_count(VARIANTS[name], num_frames)


def check_frame_count(variant: Variant, num_frames: int) -> None:
    try:
        fitted = fit(variant, variant.width, variant.height, num_frames)
    except InvalidRequest as error:
        assert variant.oversize == "refuse"
        assert error.field == "num_frames"
        assert str(variant.max_frames) in str(error)
        return
    assert fitted.num_frames % 4 == 1
    assert fitted.num_frames <= variant.max_frames
    assert abs(fitted.num_frames - num_frames) <= 2 or fitted.num_frames == variant.max_frames
    assert bool(fitted.notes) == (fitted.num_frames != num_frames)


def test_sizes_are_rounded_down_with_a_note() -> None:
    fitted = fit(VARIANTS["wan2.1-t2v-14b"], 840, 495, 81)
    assert (fitted.width, fitted.height) == (832, 480)
    assert fitted.notes == (
        "The size was rounded down from 840x495 to 832x480, because wan2.1-t2v-14b needs multiples of "
        "16 pixels.",
    )


def test_the_five_b_model_takes_multiples_of_thirty_two() -> None:
    assert fit(VARIANTS["wan2.2-ti2v-5b"], 1280, 720, 121).height == 704


@pytest.mark.parametrize(
    ("asked", "made"),
    [
        ((832, 480), (160, 96)),
        ((480, 832), (96, 160)),
        ((1280, 720), (160, 96)),
        ((720, 720), (128, 128)),
        ((100_000, 16), (576, 32)),
    ],
)
def test_the_demo_shrinks_and_keeps_the_aspect_ratio(asked: tuple[int, int], made: tuple[int, int]) -> None:
    fitted = fit(VARIANTS["demo"], *asked, 81)
    assert (fitted.width, fitted.height) == made
    assert f"shrunk from {asked[0]}x{asked[1]} to {made[0]}x{made[1]}" in fitted.notes[0]


def test_a_video_too_long_for_the_demo_is_shortened_with_a_note() -> None:
    fitted = fit(VARIANTS["demo"], 96, 64, 1000)
    assert fitted.num_frames == VARIANTS["demo"].max_frames
    assert "shortened from 1000" in fitted.notes[0]


@pytest.mark.parametrize(
    ("width", "height", "frames", "field"),
    [(0, 1, 1, "width"), (1, -1, 1, "height"), (1, 1, 0, "num_frames")],
)
def test_a_size_below_one_is_refused_by_the_name_of_its_field(
    width: int, height: int, frames: int, field: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        fit(VARIANTS["demo"], width, height, frames)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("fps", "seconds", "frames"), [(16, 5, 81), (24, 5, 121), (16, 0.1, 1), (16, 2.5, 41), (24, 1, 25)]
)
def test_a_duration_is_made_of_the_nearest_count_of_frames(fps: int, seconds: float, frames: int) -> None:
    assert frames_for(fps, seconds) == frames


def test_tokens_are_those_counted_for_wan() -> None:
    assert VARIANTS["wan2.1-t2v-14b"].tokens(832, 480, 81) == 32_760
    assert VARIANTS["wan2.2-t2v-a14b"].tokens(1280, 720, 81) == 75_600
    assert VARIANTS["wan2.2-ti2v-5b"].tokens(1280, 704, 121) == 27_280
    assert VARIANTS["demo"].tokens(160, 96, 25) == 105


def modules_without_torch() -> set[str]:
    """Return the modules that the import contracts of the tree keep without torch."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    held = [each["source_modules"] for each in contracts if "torch" in each.get("forbidden_modules", ())]
    return {name for name in chain.from_iterable(held) if name.startswith("models.")}


def test_describing_work_needs_no_torch() -> None:
    """Load the modules: a package's ``__init__`` runs too, which no reading of imports sees."""
    code = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    assert not {"torch", "diffusers", "transformers"} & sys.modules.keys(), name
"""
    subprocess.run([sys.executable, "-c", code, *sorted(modules_without_torch())], check=True)


@pytest.mark.slow
def test_modules_that_the_service_imports_are_held_to_load_no_torch() -> None:
    imported = {
        name
        for path in (ROOT / "serve_app").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for name in names_imported(node)
        if name.startswith("models.")
    }
    assert {"models.engine", "models.variants"} <= imported <= modules_without_torch()


def names_imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""]
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else []


def test_a_module_that_says_it_imports_no_torch_is_held_to_it() -> None:
    saying = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "models").rglob("*.py")
        if "imports no torch" in (ast.get_docstring(ast.parse(path.read_text())) or "").lower()
    }
    assert {"models.variants", "models.limits"} <= saying <= modules_without_torch()
