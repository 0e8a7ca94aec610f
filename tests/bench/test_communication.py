"""The bytes that ``bench communication`` counts for a plan are those that its ranks send."""

from dataclasses import replace
from functools import cache
from math import inf

import pytest

from bench import communication
from bench.communication import Rates, scaling, sent
from bench.requests import default_request
from models.parallel.plan import ParallelPlan, plan
from models.parallel.rank_launcher import RankLauncher
from models.variants import VARIANTS
from tests.models.conftest import SMALL
from tests.models.group_work import HEADS

from . import communication_work
from .communication_work import COUNTED

pytestmark = pytest.mark.slow

PLANS = [
    ParallelPlan(ulysses=4),
    ParallelPlan(ring=4),
    ParallelPlan(ring=2, ulysses=2),
    ParallelPlan(cfg=2, ulysses=2),
    ParallelPlan(cfg=2, ring=2),
]
ULYSSES = ParallelPlan(ulysses=4)
MODEL = replace(SMALL, heads=HEADS)


@cache
def counted() -> dict[tuple[ParallelPlan, str], list[dict[str, int]]]:
    made: dict[tuple[ParallelPlan, str], list[dict[str, int]]] = {}
    with RankLauncher(communication_work.steps, 4, PLANS, timeout_s=120) as launcher:
        for _, (plan, name, sent) in launcher.messages():
            made.setdefault((plan, name), []).append(sent)
    return made


@pytest.mark.parametrize("name", COUNTED)
@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_a_step_sends_the_bytes_that_are_counted(
    plan: ParallelPlan, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "not batched":
        monkeypatch.setattr(communication, "BATCHED_TOKENS", 0)
    blocks_in_8_bits = 1 if name == "in 8 bits" else 0
    expected = sent(MODEL, COUNTED[name], plan, itemsize=4, blocks_in_8_bits=blocks_in_8_bits)
    ranks = counted()[plan, name]
    assert len(ranks) == 4
    for rank in ranks:
        assert rank["ulysses"] == expected.ulysses
        assert rank["ring"] == expected.ring
        assert rank["gathered"] == expected.means + expected.output + expected.guidance
        assert rank["messages"] == expected.messages(plan)
    assert expected.total > 0


def test_more_devices_never_slow_a_step_down_by_calculation() -> None:
    variant = VARIANTS["wan2.1-t2v-14b"]
    request = default_request(variant)
    plans = [plan(devices, variant.heads, guidance=True) for devices in (1, 2, 4, 8)]
    seconds = [scaling(variant, request, chosen, Rates()).step_s for chosen in plans]
    assert seconds == sorted(seconds, reverse=True)
    assert seconds[0] / seconds[-1] < 8


def test_what_is_hidden_is_what_fits_behind_products_and_attention() -> None:
    variant = VARIANTS["wan2.1-t2v-14b"]
    request = default_request(variant)
    volumes = sent(variant, request, ULYSSES)
    assert volumes.attentions == 2 * variant.layers
    # a link as fast as can be: only latencies are left, and values' and keys' are behind the products
    quick = scaling(variant, request, ULYSSES, Rates(bytes_s=inf))
    assert quick.sending_s == pytest.approx(volumes.messages(ULYSSES) * Rates().latency_s)
    assert quick.hidden_s == pytest.approx(2 * volumes.attentions * Rates().latency_s)
    # a link as slow as can be: of three exchanges nothing but the time of two products is won
    product_s = 2 * variant.tokens(832, 480, 81) / 4 * variant.dim**2 / Rates().flops
    slow = scaling(variant, request, ULYSSES, Rates(bytes_s=1e6))
    assert slow.hidden_s == pytest.approx(volumes.attentions * 2 * product_s)
    # a ring sends while it attends, and gathers its results by itself
    ring = ParallelPlan(ring=4)
    around = scaling(variant, request, ring, Rates(bytes_s=inf))
    gathered_s = sent(variant, request, ring).gathers * Rates().latency_s
    assert around.sending_s - around.hidden_s == pytest.approx(gathered_s)


def test_a_ring_in_8_bits_sends_half_the_bytes_in_more_messages() -> None:
    variant, ring = VARIANTS["wan2.1-t2v-14b"], ParallelPlan(ring=4)
    request = default_request(variant)
    plain, in_8_bits = (sent(variant, request, ring, blocks_in_8_bits=blocks) for blocks in (0, 39))
    assert in_8_bits.ring / plain.ring == pytest.approx((1 + 39 / 2) / 40, rel=1e-4)
    assert in_8_bits.messages(ring) == plain.messages(ring) + 2 * 39
    assert 0 < in_8_bits.means < in_8_bits.ring / 1000
    assert sent(variant, request, ULYSSES, blocks_in_8_bits=39) == sent(variant, request, ULYSSES)


def test_nothing_is_sent_by_one_device() -> None:
    variant = VARIANTS["wan2.1-t2v-1.3b"]
    alone = scaling(variant, default_request(variant), ParallelPlan(), Rates())
    assert (alone.sending_s, alone.hidden_s) == (0.0, 0.0)
