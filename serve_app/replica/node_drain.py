"""The drain of a replica's node: Ray says beforehand that a node goes, and mostly when."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping

from ray._private.state import state

_logger = logging.getLogger("ray.serve")


def draining_nodes() -> Mapping[str, int]:
    """Ask Ray which nodes drain; blocks. Returns their deadlines by node id, in milliseconds since 1970, 0
    for none.
    """
    deadlines: Mapping[str, int] = state.get_draining_nodes()
    return deadlines


class NodeDrain:
    """Watches the node that a replica is on, and those of its ranks that are elsewhere.

    ``ask``: returns the deadlines of the nodes that drain; may block.
    """

    def __init__(self, node: str, ask: Callable[[], Mapping[str, int]] = draining_nodes) -> None:
        self._node = node
        self._nodes = {node}
        self._ask = ask
        self.deadline: float | None = None
        """When the first of the nodes goes, in the seconds of ``time.monotonic``; None while none has a
        deadline.
        """
        self.is_elsewhere = False
        """True if a node goes with ranks alone, for which Serve does not replace the replica."""

    def add(self, nodes: Iterable[str]) -> None:
        """Watch further nodes."""
        self._nodes.update(nodes)

    async def watch(self, period_s: float) -> None:
        """Look every ``period_s`` seconds until cancelled; what is known stands while Ray does not answer."""
        while True:
            try:
                await self.look()
            except Exception:  # Ray's own types differ by what is away
                _logger.warning("Ray did not say which nodes drain", exc_info=True)
            await asyncio.sleep(period_s)

    async def look(self) -> None:
        """Ask once."""
        deadlines = await asyncio.to_thread(self._ask)
        ends = {node: deadlines[node] / 1000.0 for node in self._nodes if deadlines.get(node)}
        self.is_elsewhere = bool(ends) and self._node not in ends
        if not ends:
            self.deadline = None
            return
        left_s = min(ends.values()) - time.time()
        if self.deadline is None:
            _logger.info("a node of this replica goes in %.0f s", left_s)
        self.deadline = time.monotonic() + left_s
