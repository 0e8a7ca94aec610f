"""The parallel plan: the division of one run among a group's devices. Made before loading; imports no
torch.
"""

from dataclasses import dataclass
from math import gcd

from models.errors import PlanError


@dataclass(frozen=True, slots=True)
class ParallelPlan:
    """A group's devices as a mesh ``cfg x ring x ulysses``; 1 x 1 x 1 is one device.

    ``cfg``: guidance parallelism; with 2, half of the devices run the prompt, half the negative prompt.
    ``ring``: ring attention; keys and values travel around the ring, queries stay.
    ``ulysses``: an all-to-all before and after attention; each device has all tokens of some heads during
    attention, and some tokens of all heads elsewhere.
    Ring and Ulysses together cut the token sequence into ``sequence`` equal parts.

    Raises ``PlanError`` for a degree out of range.
    """

    cfg: int = 1
    ring: int = 1
    ulysses: int = 1

    def __post_init__(self) -> None:
        if self.cfg not in (1, 2):
            raise PlanError(f"cfg must be 1 or 2, one part for each prompt, not {self.cfg}.")
        for name, degree in (("ring", self.ring), ("ulysses", self.ulysses)):
            if degree < 1:
                raise PlanError(f"{name} must be at least 1, not {degree}.")

    @property
    def sequence(self) -> int:
        """Number of ranks that share the token sequence."""
        return self.ring * self.ulysses

    @property
    def devices(self) -> int:
        """Number of devices in the plan."""
        return self.cfg * self.sequence

    def check_heads(self, heads: int) -> None:
        """Raise ``PlanError`` unless ``ulysses`` divides the number of attention heads."""
        if heads % self.ulysses:
            possible = [str(degree) for degree in range(1, heads + 1) if heads % degree == 0]
            raise PlanError(
                f"ulysses {self.ulysses} does not divide the model's {heads} heads; "
                f"possible are {', '.join(possible)}."
            )


def plan(
    devices: int,
    heads: int,
    guidance: bool,
    *,
    cfg: int | None = None,
    ring: int | None = None,
    ulysses: int | None = None,
    nodes: int = 1,
) -> ParallelPlan:
    """Make a plan for a number of devices, choosing the degrees that are not given.

    ``guidance``: whether runs have a negative prompt. Chooses ``cfg`` first, which communicates least; then
    ``ulysses``, as far as the heads divide, since it sends less than a ring; the rest is ``ring``.

    ``nodes``: how many nodes the devices are on, each with as many; ranks count node by node. Then
    ``ulysses`` stays within a node: its exchanges hold up every attention, while a ring sends during the
    computation.

    Raises ``PlanError`` if the devices or the heads do not divide so.
    """
    if devices < 1:
        raise PlanError(f"A group has at least one device, not {devices}.")
    if nodes < 1 or devices % nodes:
        raise PlanError(f"{devices} devices cannot be on {nodes} nodes, each with as many.")
    of_node = devices // nodes
    # checks each given degree by itself
    ParallelPlan(*(1 if degree is None else degree for degree in (cfg, ring, ulysses)))
    if cfg == 2 and not guidance:
        raise PlanError("cfg must be 1 for a model without guidance: there is no second prompt.")
    if cfg is None:
        cfg = 2 if guidance and devices % (2 * (ring or 1) * (ulysses or 1)) == 0 else 1
    if ulysses is None:
        rest = max(devices // (cfg * (ring or 1)), 1)
        ulysses = gcd(rest, heads, of_node) if ring is None else rest
    if ring is None:
        ring = max(devices // (cfg * ulysses), 1)
    chosen = ParallelPlan(cfg, ring, ulysses)
    if chosen.devices != devices:
        raise PlanError(
            f"cfg {cfg} x ring {ring} x ulysses {ulysses} needs {chosen.devices} devices, not {devices}."
        )
    chosen.check_heads(heads)
    if of_node % ulysses:
        raise PlanError(f"ulysses {ulysses} does not divide the {of_node} devices of a node.")
    return chosen
