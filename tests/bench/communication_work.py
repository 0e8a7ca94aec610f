"""The work of the ranks in ``test_communication.py``: a step under each plan, its sent bytes counted."""

from typing import Any

import torch.distributed as dist

from models.attention.approximation import Approximation
from models.attention.kernels import fp8_in_plain_torch
from models.parallel.plan import ParallelPlan
from models.parallel.rank_launcher import LaunchedRank
from models.transformer.denoiser import Denoiser
from tests.models.conftest import remade
from tests.models.group_work import REQUESTS, SHORT, model

COUNTED = {
    "t2v": REQUESTS["t2v"],
    "i2v": REQUESTS["i2v"],
    "without guidance": REQUESTS["t2v without guidance"],
    "not batched": SHORT,
    "in 8 bits": REQUESTS["t2v"],
}


class Counter:
    """A wrapper around torch's own transfers that adds up the bytes and messages that this rank sends."""

    def __init__(self) -> None:
        self.sent = {"ulysses": 0, "ring": 0, "gathered": 0, "messages": 0}
        exchange, pass_on, gather = dist.all_to_all_single, dist.batch_isend_irecv, dist.all_gather_single

        def counted_exchange(arriving: Any, tensor: Any, group: Any, **options: Any) -> Any:
            self.sent["messages"] += 1
            self.sent["ulysses"] += tensor.nbytes * (group.size() - 1) // group.size()
            return exchange(arriving, tensor, group=group, **options)

        def counted_pass_on(transfers: list[Any]) -> Any:
            self.sent["messages"] += 1
            self.sent["ring"] += sum(one.tensor.nbytes for one in transfers if one.op is dist.isend)
            return pass_on(transfers)

        def counted_gather(gathered: Any, tensor: Any, group: Any) -> Any:
            self.sent["messages"] += 1
            self.sent["gathered"] += tensor.nbytes * (group.size() - 1)
            return gather(gathered, tensor, group=group)

        for name, counted in (
            ("all_to_all_single", counted_exchange),
            ("batch_isend_irecv", counted_pass_on),
            ("all_gather_single", counted_gather),
        ):
            setattr(dist, name, counted)


def in_8_bits(denoiser: Denoiser) -> Denoiser:
    """Return one on the same weights whose second block, the last, attends in 8 bits."""
    approximation = Approximation(fp8_in_plain_torch, exact_blocks=1)
    return Denoiser(denoiser.transformer, denoiser.mesh, approximation=approximation)


def steps(rank: LaunchedRank, plans: list[ParallelPlan]) -> None:
    rank.join()
    counter = Counter()
    for plan in plans:
        engine = model(rank.mesh(plan)).engine
        for name, request in COUNTED.items():
            asked = remade(engine, batched_tokens=0) if name == "not batched" else engine
            if name == "in 8 bits":
                asked = remade(engine, denoiser=in_8_bits(engine.parts.denoiser))
            run = asked.prepare(request)
            counter.sent = dict.fromkeys(counter.sent, 0)
            asked.denoise_step(run)
            rank.send((plan, name, counter.sent))
