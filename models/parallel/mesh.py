"""The ranks of a group at run time: where this process stands among them, and what it says to the others.

One code path for any number of devices: an axis of size 1 has no process group, copies and sends nothing.
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

from models.errors import GroupLost, ModelError
from models.parallel.plan import ParallelPlan

Axis: TypeAlias = Literal["cfg", "ring", "ulysses"]
AXES: tuple[Axis, ...] = ("cfg", "ring", "ulysses")

DEFAULT_TIMEOUT_S = 120.0


def join(
    store: Store, rank: int, ranks: int, device: torch.device, timeout_s: float = DEFAULT_TIMEOUT_S
) -> None:
    """Meet the other ranks at ``store``; a process can do so once. ``Mesh`` then makes a group of them.

    A rank that has said nothing for ``timeout_s`` counts as lost, so no honest wait may be longer. Gloo
    carries what is on the CPU, the ranks' agreements among it, and NCCL what is on CUDA devices.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    timeout = timedelta(seconds=timeout_s)
    dist.init_process_group(backend, store=store, rank=rank, world_size=ranks, timeout=timeout)


class Sending:
    """Tensors on their way between ranks. ``wait`` gives what arrived."""

    def __init__(self, mesh: "Mesh", works: list[Any], arrived: list[Tensor]) -> None:
        self._mesh = mesh
        self._works = works
        self._arrived = arrived

    def wait(self) -> list[Tensor]:
        """Wait for what the other ranks sent, and return it."""
        with self._mesh.listening():
            for work in self._works:
                work.wait()
        return self._arrived


class Mesh:
    """This process's place in ``cfg x ring x ulysses``. ``Mesh()`` is the only rank of one device.

    All ranks make the same calls in the same order. Where one does not, the others raise ``GroupLost``.
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
        """This process's number in its group; 0 without one."""
        return 0 if self._mesh is None else dist.get_rank()

    def size(self, axis: Axis) -> int:
        """How many ranks there are along an axis of the plan."""
        return int(getattr(self.plan, axis))

    def index(self, axis: Axis) -> int:
        """This rank's place on the axis."""
        return 0 if self._mesh is None else self._mesh.get_local_rank(axis)

    @property
    def sequence_index(self) -> int:
        """Which of the ``plan.sequence`` parts of the tokens is this rank's."""
        return self.index("ring") * self.plan.ulysses + self.index("ulysses")

    def agree(self, leave: bool) -> bool:
        """Whether any rank wants to leave: the same answer on all of them, so that all leave together."""
        if self._mesh is None:
            return leave
        wish = torch.tensor([int(leave)])
        with self.listening():
            dist.all_reduce(wish, dist.ReduceOp.MAX)
        return bool(wish.item())

    def summed(self, tensor: Tensor) -> Tensor:
        """The sum of every rank's tensor, to the bit the same on all; ``tensor`` is written over."""
        if self._mesh is not None:
            with self.listening():
                dist.reduce(tensor, dst=0)
        return self.from_first(tensor)  # no reduction of all to all promises the same rounding

    def from_first(self, tensor: Tensor) -> Tensor:
        """Rank 0's tensor, on every rank; elsewhere ``tensor`` is written over."""
        if self._mesh is not None:
            with self.listening():
                dist.broadcast(tensor, src=0)
        return tensor

    def share(self, items: list[Tensor], axis: Axis) -> list[Tensor]:
        """This rank's items, where there are enough to deal out along the axis; otherwise all of them."""
        each, over = divmod(len(items), self.size(axis))
        return items if over else items[self.index(axis) * each :][:each]

    def gathered(self, tensor: Tensor, axis: Axis) -> Tensor:
        """Every rank's tensor along the axis, ``[ranks, *shape]``, in order."""
        if self.size(axis) == 1:
            return tensor[None]
        ranks = self.size(axis)
        gathered = tensor.new_empty(ranks * tensor.shape[0], *tensor.shape[1:])
        tensor = tensor.contiguous()
        with self.listening():
            dist.all_gather_single(gathered, tensor, group=self._group(axis))
        parts: Tensor = gathered.unflatten(0, (ranks, -1))
        return parts

    def swapped(self, tensor: Tensor, axis: Axis) -> Sending:
        """Send ``tensor[i]`` to rank i of the axis; from it comes what arrives at ``[i]``. Contiguous."""
        arriving = torch.empty_like(tensor)
        with self.listening():
            work = dist.all_to_all_single(arriving, tensor, group=self._group(axis), async_op=True)
        return Sending(self, [work], [arriving])

    def passed_on(self, tensors: list[Tensor], axis: Axis) -> Sending:
        """Send tensors to the next rank of the circle; those of the one before arrive. Contiguous."""
        group, ranks = self._group(axis), self.size(axis)
        after, before = ((self.index(axis) + step) % ranks for step in (1, -1))
        arriving = [torch.empty_like(tensor) for tensor in tensors]
        transfers = [dist.P2POp(dist.isend, tensor, group=group, group_peer=after) for tensor in tensors]
        transfers += [dist.P2POp(dist.irecv, tensor, group=group, group_peer=before) for tensor in arriving]
        with self.listening():
            works = dist.batch_isend_irecv(transfers)
        return Sending(self, works, arriving)

    def exchanged(self, sent: dict[int, Tensor], awaited: dict[int, Tensor]) -> Sending:
        """Send a tensor to each rank that is named and fill those awaited from others. Contiguous."""
        transfers = [dist.P2POp(dist.isend, tensor, rank) for rank, tensor in sent.items()]
        transfers += [dist.P2POp(dist.irecv, tensor, rank) for rank, tensor in awaited.items()]
        with self.listening():
            works = dist.batch_isend_irecv(transfers)
        return Sending(self, works, list(awaited.values()))

    @contextmanager
    def together(self) -> Iterator[None]:
        """Around what each rank does for itself: if it fails on one, all of them raise.

        What the ranks do in ``lockstep`` within is lost where one fails, and nothing more is said.
        """
        try:
            yield
        except ModelError:
            if not self.lost:
                self.agree(leave=True)
            raise
        if self.agree(leave=False):
            raise ModelError("The model failed on another device of the group.")

    @contextmanager
    def lockstep(self) -> Iterator[None]:
        """Around what all ranks do together: a rank that fails in there alone is out of step for good."""
        self._check_whole()
        try:
            yield
        except BaseException:
            self.lost = self.plan.devices > 1
            raise

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Around every call that waits for other ranks: what torch raises there is ``GroupLost``."""
        self._check_whole()
        try:
            yield
        except RuntimeError as error:
            self.lost = True
            raise GroupLost(
                f"The ranks could not talk: one has ended, or said nothing within {self.timeout_s:g} s."
            ) from error

    def _check_whole(self) -> None:
        if self.lost:  # the others would not answer, or answer something else
            raise GroupLost("This group has lost its step and cannot be used again.")

    def _group(self, axis: Axis) -> dist.ProcessGroup:
        assert self._mesh is not None
        return self._mesh.get_group(axis)


def _device_mesh(plan: ParallelPlan, device_type: str, timeout_s: float) -> DeviceMesh:
    # DeviceMesh would make its groups itself, but with torch's own timeout of half an hour.
    ranks = torch.arange(plan.devices).view(plan.cfg, plan.ring, plan.ulysses)
    groups = []
    for dimension in range(ranks.ndim):
        lines = ranks.movedim(dimension, -1).flatten(0, 1).tolist()
        timeout = timedelta(seconds=timeout_s)
        group, _ = dist.new_subgroups_by_enumeration(lines, timeout=timeout)
        groups.append(group)
    return DeviceMesh.from_group(groups, device_type, mesh=ranks, mesh_dim_names=AXES)
