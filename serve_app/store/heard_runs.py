"""The runs that a coordinator has heard of lately, whether or not the database has been told yet."""

import time

_FORGOTTEN_AT = 10_000


class HeardRuns:
    """When each run's runner last said anything.

    A lease in the database ends late reports as well as silent runners: where the database is slow, a runner
    that speaks every second can have a lease that ended before its report was written. Such a run is not to
    be given up.

    Nor has anybody run an attempt that was claimed here and never given out: its claim was cancelled, or the
    connection broke after the commit. Such an attempt does not count.
    """

    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        self._heard_at: dict[tuple[str, int], float] = {}
        self._untold: set[tuple[str, int]] = set()

    def begin(self, uid: str, attempt: int) -> None:
        """Note that an attempt is being claimed; no runner knows of it before ``hear``."""
        self._untold.add((uid, attempt))

    def is_untold(self, uid: str, attempt: int) -> bool:
        """Return whether an attempt was claimed here and no runner has been told."""
        return (uid, attempt) in self._untold

    def hear(self, uid: str, attempt: int) -> None:
        """Note that the runner of an attempt has just spoken, or been given its task."""
        if len(self._heard_at) >= _FORGOTTEN_AT:
            self._heard_at = {run: at for run, at in self._heard_at.items() if self._is_recent(at)}
        self._untold.discard((uid, attempt))
        self._heard_at[uid, attempt] = time.monotonic()

    def has(self, uid: str, attempt: int) -> bool:
        """Return whether the runner of an attempt has spoken within a lease."""
        at = self._heard_at.get((uid, attempt))
        return at is not None and self._is_recent(at)

    def _is_recent(self, at: float) -> bool:
        return time.monotonic() - at < self._lease_s
