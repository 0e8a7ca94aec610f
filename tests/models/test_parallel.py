"""A video does not depend on the number of devices, and no rank is ever left alone in a step.

The ranks are real processes that talk over gloo; one set of them does all runs of its size.
"""

import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from models.attention.kernels import sdpa
from models.engine import EngineSettings
from models.errors import GroupLost, OutOfMemory, PlanError, TuningError
from models.generate import generate
from models.group import generate_in_group
from models.loading import load_engine
from models.parallel.plan import ParallelPlan, plan
from models.parallel.rank_launcher import RankLauncher
from models.phase import Phase
from models.speed.fp8 import closeness
from models.vae.streaming_vae import StreamingVae
from models.vae.tiles import Tiling
from models.variants import VARIANTS

from . import group_work
from .checkpoints import save_checkpoint, small
from .group_work import HEADS, KINDS, LONG, REQUESTS, SHORT, SPARSE
from .test_vae import wan21
from .waiting_work import wait_for_ever

pytestmark = pytest.mark.slow

TOLERANCE = 1e-4

PLANS = [
    ParallelPlan(cfg=2),
    ParallelPlan(ring=2),
    ParallelPlan(ulysses=2),
    ParallelPlan(cfg=2, ring=2),
    ParallelPlan(cfg=2, ulysses=2),
    ParallelPlan(ring=2, ulysses=2),
    ParallelPlan(ring=4),
    ParallelPlan(ulysses=4),
    ParallelPlan(cfg=2, ring=2, ulysses=2),
    ParallelPlan(ring=2, ulysses=4),
]
KIND_PLANS = [plan for plan in PLANS if plan.devices == 2]
SIZES = sorted({plan.devices for plan in PLANS})
DECODES = [(devices, *decode) for devices in SIZES for decode in group_work.DECODES]


def name_of(plan: ParallelPlan) -> str:
    return f"cfg{plan.cfg}-ring{plan.ring}-ulysses{plan.ulysses}"


@cache
def group(devices: int) -> dict[tuple[ParallelPlan, str], list[Any]]:
    """The results of each run on each rank of a group of this size."""
    made: dict[tuple[ParallelPlan, str], list[Any]] = {}
    plans = [plan for plan in PLANS if plan.devices == devices]
    with RankLauncher(group_work.runs, devices, plans, timeout_s=120) as launcher:
        for rank, (plan, name, content) in launcher.messages():
            made.setdefault((plan, name), [None] * devices)[rank] = content
    return made


@cache
def alone(name: str) -> np.ndarray:
    return group_work.latents(group_work.model().engine, name).numpy()


@cache
def whole(work: Any, form: Any, height: int, conv: str) -> Any:
    """The result of a decode or an encode of ``group_work`` on one device."""
    return work(form, height, conv)


@pytest.mark.parametrize("name", group_work.RUNS)
@pytest.mark.parametrize("plan", PLANS, ids=name_of)
def test_the_video_is_that_of_one_device(plan: ParallelPlan, name: str) -> None:
    expected = alone(name)
    assert expected.std() > 0.05
    for latents in group(plan.devices)[plan, name]:
        assert latents.shape == expected.shape
        np.testing.assert_allclose(latents, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", SPARSE)
def test_sparse_attention_keeps_the_blocks_that_one_device_keeps(name: str) -> None:
    expected = group_work.sparse_latents(group_work.model().engine, name).numpy()
    dense = group_work.run_to_end(group_work.model().engine, SPARSE[name]).numpy()
    assert np.abs(dense - expected).max() > 100 * TOLERANCE
    for by_heads in (each for each in PLANS if each.ring == 1):
        for latents in group(by_heads.devices)[by_heads, name]:
            np.testing.assert_allclose(latents, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("row", group_work.ROWS)
@pytest.mark.parametrize("plan", PLANS, ids=name_of)
def test_attention_in_8_bits_is_as_near_to_the_exact_one_in_a_group(plan: ParallelPlan, row: int) -> None:
    queries, keys, values = (part.flatten(2, 3) for part in group_work.some_heads(row))
    exact = sdpa(queries, keys, values).transpose(1, 2)
    # of keys and values a byte each, and a scale for each head
    heads, tokens = HEADS // plan.ulysses, 3 * min(plan.ulysses * -(-row // plan.sequence), row)
    message = 2 * heads * (tokens * 32 + 4)
    for attended, sent in group(plan.devices)[plan, f"8 bits, {row}"]:
        found = closeness(torch.from_numpy(attended), exact)
        assert 0.005 < found.error < 0.06
        assert sent == [message] * (plan.ring - 1)


@pytest.mark.parametrize("plan", PLANS, ids=name_of)
def test_every_rank_has_the_same_bits(plan: ParallelPlan) -> None:
    for name in REQUESTS:
        first, *others = group(plan.devices)[plan, name]
        assert all(np.array_equal(first, other) for other in others)


@pytest.mark.parametrize("devices", SIZES)
def test_a_torch_without_all_gather_single_makes_the_same_video(devices: int) -> None:
    (made,) = (made for (_, name), made in group(devices).items() if name == "older torch")
    for latents in made:
        np.testing.assert_allclose(latents, alone("i2v"), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("plan", PLANS, ids=name_of)
def test_rank_0_alone_has_the_frames(plan: ParallelPlan) -> None:
    """Make a video of two fragments, whose second begins with rank 0's last frame of the first."""
    expected = group_work.model().frames(LONG)
    first, *others = group(plan.devices)[plan, "frames"]
    assert others == [[]] * (plan.devices - 1)
    frames = np.concatenate(first).astype(int)
    assert frames.shape == expected.shape
    assert np.abs(frames - expected).max() <= 1


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    made = {name: root / name for name, _, _ in KINDS.values()}
    for name, folder in made.items():
        save_checkpoint(small(name), folder)
    return made


@pytest.fixture(scope="module")
def pair(folders: dict[str, Path]) -> dict[tuple[ParallelPlan, str], list[Any]]:
    """The results of each kind of model on each of two ranks."""
    made: dict[tuple[ParallelPlan, str], list[Any]] = {}
    with RankLauncher(group_work.kinds, 2, KIND_PLANS, folders, timeout_s=120) as launcher:
        for rank, (key, latents) in launcher.messages():
            made.setdefault(key, [None, None])[rank] = latents
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_two_devices_make_the_video_of_one_with_each_kind_of_model(
    folders: dict[str, Path], pair: dict[tuple[ParallelPlan, str], list[Any]], kind: str
) -> None:
    engine, request = group_work.loaded(kind, folders), group_work.request_of(kind)
    assert len(engine.prepare(request).stages) == (2 if "two experts" in kind else 1)
    expected = group_work.run_to_end(engine, request).numpy()
    assert expected.std() > 0.05
    for split in KIND_PLANS:
        first, second = pair[split, kind]
        np.testing.assert_allclose(first, expected, atol=TOLERANCE, rtol=0)
        assert np.array_equal(first, second)


@pytest.mark.parametrize("devices", SIZES)
def test_all_leave_at_the_step_where_one_wants_to(devices: int) -> None:
    (answers,) = (made for (_, name), made in group(devices).items() if name == "left")
    assert answers == [2] * devices


@pytest.mark.parametrize(("devices", "form", "height", "conv"), DECODES)
def test_strips_join_to_the_whole_decode(devices: int, form: Any, height: int, conv: str) -> None:
    name = f"decode {form.__name__} {height} {conv}"
    ((first, *others),) = (made for (_, made_name), made in group(devices).items() if made_name == name)
    assert others == [[]] * (devices - 1)
    for chunk, expected in zip(first, whole(group_work.decoded, form, height, conv), strict=True):
        np.testing.assert_allclose(chunk, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("devices", SIZES)
def test_strips_in_8_bits_join_to_the_whole_decode(devices: int) -> None:
    ((first, *others),) = (made for (_, name), made in group(devices).items() if name == "decode in 8 bits")
    assert others == [[]] * (devices - 1)
    for chunk, expected in zip(first, group_work.decoded_in_8_bits(), strict=True):
        # sums in another order now and then round to another 8-bit value, whose step is a sixteenth of it
        assert np.abs(chunk - expected.numpy()).mean() < 1e-4


@pytest.mark.parametrize("devices", SIZES)
def test_all_decode_again_what_overflows_in_one_strip(devices: int) -> None:
    ((first, *others),) = (made for (_, name), made in group(devices).items() if name == "overflow")
    assert others == [[]] * (devices - 1)
    for chunk, expected in zip(first, group_work.overflowing(), strict=True):
        np.testing.assert_allclose(chunk, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("devices", "form", "height", "conv"), DECODES)
def test_strips_are_encoded_to_the_whole_latents_on_every_rank(
    devices: int, form: Any, height: int, conv: str
) -> None:
    name = f"encode {form.__name__} {height} {conv}"
    (made,) = (made for (_, made_name), made in group(devices).items() if made_name == name)
    expected = whole(group_work.encoded, form, height, conv).numpy()
    assert expected.std() > 0.01
    for latents in made:
        np.testing.assert_allclose(latents, expected, atol=1e-5, rtol=0)
        assert np.array_equal(latents, made[0])


@pytest.mark.parametrize("devices", SIZES)
def test_all_stop_a_decode_that_rank_0_stops(devices: int) -> None:
    (chunks,) = (made for (_, name), made in group(devices).items() if name == "stopped")
    assert chunks == [1] + [0] * (devices - 1)  # and the runs after it went well


@pytest.mark.parametrize("devices", SIZES)
def test_a_request_that_one_rank_cannot_prepare_fails_on_all_and_the_group_goes_on(devices: int) -> None:
    made = group(devices)
    (seen,) = (made for (_, name), made in made.items() if name == "refused")
    assert seen == [["ModelError", "ModelError"]] * devices
    (after,) = (made for (_, name), made in made.items() if name == "after")
    np.testing.assert_allclose(after[0], alone("i2v"), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("plan", "how"),
    [
        (ParallelPlan(cfg=2), "dies"),
        (ParallelPlan(ring=2, ulysses=2), "dies"),
        (ParallelPlan(cfg=2), "hangs"),
        (ParallelPlan(ring=2), "hangs"),
        (ParallelPlan(ulysses=2), "hangs"),
    ],
    ids=lambda value: value if isinstance(value, str) else name_of(value),
)
def test_a_rank_that_dies_or_hangs_surfaces_on_the_others(plan: ParallelPlan, how: str) -> None:
    heard: list[str] = []
    with (
        RankLauncher(group_work.fault, plan.devices, plan, how, timeout_s=5) as launcher,
        pytest.raises(GroupLost),
    ):
        for _, content in launcher.messages():
            heard.append(content)
    survivors = plan.devices - 1
    assert sum("within 5 s" in content for content in heard) == survivors
    assert sum("cannot be used again" in content for content in heard) == 2 * survivors
    assert set(range(survivors)) <= set(launcher.failures)


def test_the_error_of_the_rank_that_failed_alone_is_the_one_that_is_told() -> None:
    plan = ParallelPlan(ulysses=2)
    with (
        RankLauncher(group_work.fault, 2, plan, "fails", timeout_s=5) as launcher,
        pytest.raises(OutOfMemory),
    ):
        list(launcher.messages())
    assert isinstance(launcher.failures[0], GroupLost)


def test_a_picture_that_one_rank_cannot_encode_ends_the_group_with_its_error() -> None:
    with (
        RankLauncher(group_work.encode_fault, 2, ParallelPlan(ulysses=2), timeout_s=3) as launcher,
        pytest.raises(OutOfMemory),
    ):
        list(launcher.messages())
    assert isinstance(launcher.failures[0], GroupLost)


def test_no_process_is_left() -> None:
    with RankLauncher(wait_for_ever, 2) as launcher:
        pids = [pid for _, (_, pid) in zip(range(2), launcher.messages(), strict=False)]
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_no_process_outlives_a_launcher_that_is_killed() -> None:
    program = "from tests.models.waiting_work import abandoned\nif __name__ == '__main__': abandoned()"
    root = str(Path(__file__).parent.parent.parent)
    launcher = subprocess.run(
        [sys.executable, "-c", program],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=120,
    )
    pids = [int(line) for line in launcher.stdout.split()]
    assert len(pids) == 2
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=120)
    assert not alive


def test_a_group_of_processes_makes_the_video_of_one(demo_weights: Any) -> None:
    variant = VARIANTS["demo"]
    settings = EngineSettings(variant, demo_weights)
    request = replace(SHORT, width=64, height=32, prompt="a cat " * 600, negative_prompt="")
    phases_alone: list[Phase] = []
    phases: list[Phase] = []
    expected = np.concatenate(list(generate(load_engine(settings), request, on_phase=phases_alone.append)))
    steps: list[tuple[int, int]] = []
    told: list[tuple[str, ...]] = []
    chosen = plan(2, variant.heads, guidance=True)
    frames = np.concatenate(
        list(
            generate_in_group(
                settings,
                chosen,
                request,
                lambda *step: steps.append(step),
                told.append,
                on_phase=phases.append,
            )
        )
    )
    assert frames.shape == expected.shape
    assert np.abs(frames.astype(int) - expected).max() <= 1
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert phases == phases_alone
    ((cut, words),) = told
    assert cut.startswith("The prompt was cut after") and words.endswith("does not know: cat.")


@pytest.mark.parametrize(
    ("devices", "heads", "guidance", "expected"),
    [
        (1, 12, True, ParallelPlan()),
        (2, 12, True, ParallelPlan(cfg=2)),
        (2, 12, False, ParallelPlan(ulysses=2)),
        (3, 12, True, ParallelPlan(ulysses=3)),
        (8, 12, True, ParallelPlan(cfg=2, ulysses=4)),
        (8, 12, False, ParallelPlan(ring=2, ulysses=4)),
        (8, 40, True, ParallelPlan(cfg=2, ulysses=4)),
        (8, 40, False, ParallelPlan(ulysses=8)),
        (8, 24, False, ParallelPlan(ulysses=8)),
        (3, 40, False, ParallelPlan(ring=3)),
        (5, 12, True, ParallelPlan(ring=5)),
    ],
)
def test_a_plan_is_chosen_by_devices_and_heads(
    devices: int, heads: int, guidance: bool, expected: ParallelPlan
) -> None:
    assert plan(devices, heads, guidance) == expected


def test_given_degrees_of_a_plan_stay() -> None:
    assert plan(8, 12, True, cfg=1) == ParallelPlan(ring=2, ulysses=4)
    assert plan(8, 12, True, ulysses=2) == ParallelPlan(cfg=2, ring=2, ulysses=2)
    assert plan(8, 40, True, ring=4) == ParallelPlan(cfg=2, ring=4)
    assert plan(8, 40, True, ring=8) == ParallelPlan(ring=8)
    assert plan(4, 12, True, cfg=2, ring=1, ulysses=2) == ParallelPlan(cfg=2, ulysses=2)


def test_heads_that_do_not_divide_are_refused_with_the_possible_degrees() -> None:
    with pytest.raises(PlanError, match="12 heads; possible are 1, 2, 3, 4, 6, 12"):
        plan(8, 12, False, ulysses=8)
    with pytest.raises(PlanError, match="possible are 1, 2, 4"):
        group_work.model.__wrapped__(_Unmeshed(ParallelPlan(ulysses=3)))


def test_tiles_are_refused_in_a_group() -> None:
    mesh: Any = _Unmeshed(ParallelPlan(ring=2))
    with pytest.raises(TuningError, match="vae_tiling"):
        StreamingVae(wan21(), mesh=mesh, tiling=Tiling())


class _Unmeshed:
    """A place in a group that was never started."""

    def __init__(self, plan: ParallelPlan) -> None:
        self.plan = plan


@pytest.mark.parametrize(
    ("devices", "guidance", "degrees"),
    [
        (0, True, {}),
        (4, True, {"cfg": 3}),
        (4, True, {"cfg": 0}),
        (3, True, {"cfg": 2}),
        (4, False, {"cfg": 2}),
        (4, True, {"ring": 0}),
        (4, True, {"ring": 3}),
        (4, True, {"ulysses": -1}),
        (4, True, {"cfg": 2, "ulysses": 3}),
        (4, True, {"cfg": 1, "ring": 1, "ulysses": 2}),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(devices: int, guidance: bool, degrees: dict[str, int]) -> None:
    with pytest.raises(PlanError):
        plan(devices, HEADS * 3, guidance, **degrees)
