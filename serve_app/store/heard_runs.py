"""The runs that a coordinator has heard of lately, whether or not the database has been told yet."""

import time

_FORGOTTEN_AT = 10_000


class HeardRuns:
    """When each run's runner last said anything.

    A lease in the database ends late reports as well as silent runners: where the database is slow, a runner
    that speaks every second can have a lease that ended before its report was written. Such a run is not to
    be given up.

    Nor has anybody run an attempt of which neither this coordinator nor the database has heard: its claim was
    cancelled, the connection broke after the commit, or the coordinator that claimed it died before its
    answer. Such an attempt does not count.
    """

    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        self._heard_at: dict[tuple[str, int], float] = {}

    def hear(self, uid: str, attempt: int) -> None:
        """Note that the runner of an attempt has just spoken, or been given its task."""
        if len(self._heard_at) >= _FORGOTTEN_AT:
            # Twice a lease: runs that are silent for one are given up before they are forgotten.
            since = time.monotonic() - 2 * self._lease_s
            self._heard_at = {run: at for run, at in self._heard_at.items() if at > since}
        self._heard_at[uid, attempt] = time.monotonic()

    def has(self, uid: str, attempt: int) -> bool:
        """Return whether the runner of an attempt has spoken within a lease."""
        at = self._heard_at.get((uid, attempt))
        return at is not None and time.monotonic() - at < self._lease_s

    def knows(self, uid: str, attempt: int) -> bool:
        """Return whether an attempt has a runner that was given its task here, or has spoken here."""
        return (uid, attempt) in self._heard_at
