"""The device mesh of a group at run time: this process's rank, and the collectives between ranks.

One code path serves any number of devices: an axis of size 1 has no process group, and copies and sends
nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.distributed_c10d import Store

from models.errors import EngineLost, GroupLost, ModelError
from models.parallel.plan import ParallelPlan

Axis: TypeAlias = Literal["cfg", "ring", "ulysses"]
AXES: tuple[Axis, ...] = ("cfg", "ring", "ulysses")

DEFAULT_TIMEOUT_S = 120.0


def join(
    store: Store, rank: int, ranks: int, device: torch.device, timeout_s: float = DEFAULT_TIMEOUT_S
) -> None:
    """Initialise torch.distributed with the other ranks at ``store``, once per process. ``Mesh`` builds on
    that.

    A rank that is silent for ``timeout_s`` counts as lost, so no legitimate wait may be longer. Gloo carries
    tensors on the CPU, among them the ranks' votes, and NCCL those on CUDA devices.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    timeout = timedelta(seconds=timeout_s)
    dist.init_process_group(backend, store=store, rank=rank, world_size=ranks, timeout=timeout)


class Transfer:
    """An asynchronous transfer between ranks. ``wait`` returns the received tensors."""

    def __init__(self, mesh: "Mesh", works: list[Any], arrived: list[Tensor]) -> None:
        self._mesh = mesh
        self._works = works
        self._arrived = arrived

    def wait(self) -> list[Tensor]:
        """Wait for the transfer and return the received tensors. Raises ``GroupLost``."""
        with self._mesh.listening():
            for work in self._works:
                work.wait()
        return self._arrived


class Mesh:
    """Place of this process in ``cfg x ring x ulysses``, and its collectives. ``Mesh()`` is a single device.

    All ranks make the same calls in the same order. If one does not, the others raise ``GroupLost``.
    """

    def __init__(
        self,
        plan: ParallelPlan | None = None,
        device: torch.device | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        self.plan = plan or ParallelPlan()
        self.timeout_s = timeout_s
        self.lost = False
        self._mesh: DeviceMesh | None = None
        if self.plan.devices > 1:
            with self.listening():
                self._mesh = _device_mesh(self.plan, (device or torch.device("cpu")).type, timeout_s)

    @property
    def rank(self) -> int:
        """Rank of this process in its group; 0 without a group."""
        return 0 if self._mesh is None else dist.get_rank()

    def size(self, axis: Axis) -> int:
        """Return the number of ranks along an axis."""
        return int(getattr(self.plan, axis))

    def index(self, axis: Axis) -> int:
        """Return this rank's index along an axis."""
        return 0 if self._mesh is None else self._mesh.get_local_rank(axis)

    @property
    def sequence_index(self) -> int:
        """Index of this rank's part among the ``plan.sequence`` parts of the tokens."""
        return self.index("ring") * self.plan.ulysses + self.index("ulysses")

    def agree(self, leave: bool) -> bool:
        """Return whether any rank votes to leave: the same answer on all ranks, so that all leave."""
        if self._mesh is None:
            return leave
        vote = torch.tensor([int(leave)])
        with self.listening():
            dist.all_reduce(vote, dist.ReduceOp.MAX)
        return bool(vote.item())

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """Sum the tensors of all ranks, bitwise equal on every rank. Overwrites ``tensor``."""
        if self._mesh is not None:
            with self.listening():
                dist.reduce(tensor, dst=0)
        return self.broadcast(tensor)  # an all-reduce does not promise the same rounding on every rank

    def broadcast(self, tensor: Tensor) -> Tensor:
        """Broadcast rank 0's tensor. Overwrites ``tensor`` on the other ranks."""
        if self._mesh is not None:
            with self.listening():
                dist.broadcast(tensor, src=0)
        return tensor

    def share(self, items: list[Tensor], axis: Axis) -> list[Tensor]:
        """Return this rank's share of the items if they divide evenly along the axis, else all items."""
        each, over = divmod(len(items), self.size(axis))
        return items if over else items[self.index(axis) * each :][:each]

    def all_gather(self, tensor: Tensor, axis: Axis) -> Tensor:
        """Gather the tensors of all ranks along the axis (all-gather), ``[ranks, *shape]`` in order."""
        if self.size(axis) == 1:
            return tensor[None]
        ranks = self.size(axis)
        gathered = tensor.new_empty(ranks * tensor.shape[0], *tensor.shape[1:])
        tensor = tensor.contiguous()
        # torch 2.13 deprecates the older name for this one
        gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
        with self.listening():
            gather(gathered, tensor, group=self._group(axis))
        parts: Tensor = gathered.unflatten(0, (ranks, -1))
        return parts

    def all_to_all(self, tensor: Tensor, axis: Axis) -> Transfer:
        """Start an all-to-all: ``tensor[i]`` goes to rank i of the axis, whose part arrives at ``[i]``.

        ``tensor`` is contiguous.
        """
        arriving = torch.empty_like(tensor)
        with self.listening():
            work = dist.all_to_all_single(arriving, tensor, group=self._group(axis), async_op=True)
        return Transfer(self, [work], [arriving])

    def ring_shift(self, tensors: list[Tensor], axis: Axis) -> Transfer:
        """Start to send tensors to the next rank of the ring and to receive the previous rank's.

        The tensors are contiguous.
        """
        group, ranks = self._group(axis), self.size(axis)
        after, before = ((self.index(axis) + step) % ranks for step in (1, -1))
        arriving = [torch.empty_like(tensor) for tensor in tensors]
        transfers = [dist.P2POp(dist.isend, tensor, group=group, group_peer=after) for tensor in tensors]
        transfers += [dist.P2POp(dist.irecv, tensor, group=group, group_peer=before) for tensor in arriving]
        with self.listening():
            works = dist.batch_isend_irecv(transfers)
        return Transfer(self, works, arriving)

    def exchange(self, sent: dict[int, Tensor], awaited: dict[int, Tensor]) -> Transfer:
        """Start to send each tensor of ``sent`` to its rank, and to receive each of ``awaited`` from its
        rank.

        The tensors are contiguous.
        """
        transfers = [dist.P2POp(dist.isend, tensor, rank) for rank, tensor in sent.items()]
        transfers += [dist.P2POp(dist.irecv, tensor, rank) for rank, tensor in awaited.items()]
        with self.listening():
            works = dist.batch_isend_irecv(transfers)
        return Transfer(self, works, list(awaited.values()))

    @contextmanager
    def together(self) -> Iterator[None]:
        """Guard work that each rank does by itself: if it fails on one rank, all of them raise
        ``ModelError``.

        If a rank fails inside a nested ``lockstep``, the group is lost and no vote is taken.
        """
        try:
            yield
        except ModelError:
            if not self.lost:
                self.agree(leave=True)
            raise
        except EngineLost:  # no vote: the others may already be in another call
            self.lost = self.plan.devices > 1
            raise
        if self.agree(leave=False):
            raise ModelError("The model failed on another device of the group.")

    @contextmanager
    def lockstep(self) -> Iterator[None]:
        """Guard work that all ranks do together: a failure loses the group, whose ranks are out of step."""
        self._check_whole()
        try:
            yield
        except BaseException:
            self.lost = self.plan.devices > 1
            raise

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Guard every call that waits for other ranks: converts torch's ``RuntimeError`` to ``GroupLost``."""
        self._check_whole()
        try:
            yield
        except RuntimeError as error:
            self.lost = True
            raise GroupLost(
                f"The ranks could not talk: one has ended, or said nothing within {self.timeout_s:g} s."
            ) from error

    def _check_whole(self) -> None:
        if self.lost:  # the other ranks would not answer, or would be in another call
            raise GroupLost("This group has lost its step and cannot be used again.")

    def _group(self, axis: Axis) -> dist.ProcessGroup:
        assert self._mesh is not None
        return self._mesh.get_group(axis)


def _device_mesh(plan: ParallelPlan, device_type: str, timeout_s: float) -> DeviceMesh:
    # DeviceMesh can create its groups, but only with torch's default timeout of half an hour.
    ranks = torch.arange(plan.devices).view(plan.cfg, plan.ring, plan.ulysses)
    groups = []
    for dimension in range(ranks.ndim):
        lines = ranks.movedim(dimension, -1).flatten(0, 1).tolist()
        timeout = timedelta(seconds=timeout_s)
        group, _ = dist.new_subgroups_by_enumeration(lines, timeout=timeout)
        groups.append(group)
    return DeviceMesh.from_group(groups, device_type, mesh=ranks, mesh_dim_names=AXES)
