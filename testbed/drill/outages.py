"""The drill of outages: a service's database and its bucket are cut off, silent or slow, under load."""

import asyncio
import base64
import io
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from threading import Event
from typing import Any

from PIL import Image
from sqlalchemy import make_url

from testbed.cluster import free_port, paced
from testbed.drill.attempts import attempts_lost
from testbed.drill.client import Submits, Work
from testbed.drill.drill import SETTINGS, Drill, DrillPlan, Outcome
from testbed.launched import Launched
from testbed.postgres_server import PostgresServer, programs
from testbed.s3_server import S3Server, program
from testbed.tcp_proxy import TcpProxy

_MAX_ATTEMPTS = 10
_RULES = {"lease_s": 15.0, "heartbeat_s": 1.0, "max_attempts": _MAX_ATTEMPTS}
"""A lease that is far shorter than an outage."""
_STEPS = (4, 40)
_SLOW_PART_S = 0.2
"""Wait of each part of what is said, both ways: a database's answer takes twice that."""
_CUTS, _CUT_EVERY_S = 20, 0.5
_KINDS = (
    *("database away", "bucket away", "both away", "database silent"),
    *("database slow", "bucket slow", "both slow", "connections cut"),
)


@dataclass(frozen=True)
class OutageOutcome(Outcome):
    """The outcome of a drill of outages."""

    submits: Submits
    longest_recovery_s: float
    """Most seconds after an outage until a submit was acknowledged and a task was seen to end."""
    attempts_lost: int
    """Attempts that were used up beside the last one of each task; none should be."""

    @property
    def is_clean(self) -> bool:
        """True if every promise was kept: each refused submit was told when to come back, too."""
        return super().is_clean and not self.attempts_lost and not self.submits.unadvised

    def as_json(self) -> dict[str, Any]:
        """Return the figures by name."""
        return {
            **super().as_json(),
            "attempts lost": self.attempts_lost,
            "refused": self.submits.refused,
            "without Retry-After": self.submits.unadvised,
            "unanswered": self.submits.unanswered,
            "longest recovery s": round(self.longest_recovery_s, 1),
        }


class Outages:
    """The outages of a database and a bucket behind proxies: each kind in turn, in a random order."""

    def __init__(
        self, database: TcpProxy, bucket: TcpProxy, random: Random, *, away_s: float, slow_s: float
    ) -> None:
        self._database = database
        self._bucket = bucket
        self._lengths = {"away": away_s, "silent": away_s, "slow": slow_s}
        self._kinds = random.sample(_KINDS, len(_KINDS))
        self.struck: dict[str, int] = {}
        self.mended_at: list[float] = []
        """The end of each, by ``time.monotonic``."""

    def strike(self) -> bool:
        """Begin an outage and end it after its time."""
        kind = self._kinds[sum(self.struck.values()) % len(self._kinds)]
        whose, _, what = kind.partition(" ")
        print(f"{time.strftime('%H:%M:%S')} {kind} …", file=sys.stderr, flush=True)
        if what == "cut":
            self._cut_again_and_again()
        else:
            self._begin(whose, what)
            Event().wait(self._lengths[what])  # the outage itself: time goes by
        for proxy in (self._database, self._bucket):
            proxy.mend()
        self.mended_at.append(time.monotonic())
        print(f"{time.strftime('%H:%M:%S')} mended", file=sys.stderr, flush=True)
        self.struck[kind] = self.struck.get(kind, 0) + 1
        return True

    def _begin(self, whose: str, what: str) -> None:
        for proxy in self._of(whose):
            if what == "slow":
                proxy.slow(_SLOW_PART_S)
            else:
                (proxy.cut if what == "away" else proxy.stall)()

    def _of(self, whose: str) -> Sequence[TcpProxy]:
        each = {"database": (self._database,), "bucket": (self._bucket,)}
        return each.get(whose, (self._database, self._bucket))

    def _cut_again_and_again(self) -> None:
        """Break what is under way; new connections are let through at once."""
        for _ in range(_CUTS):
            for proxy in (self._database, self._bucket):
                proxy.cut()
                proxy.mend()
            Event().wait(_CUT_EVERY_S)


def drill_outages(plan: DrillPlan, folder: Path, *, away_s: float, slow_s: float) -> OutageOutcome:
    """Start a service in ``folder``, take its stores away ``plan.kills`` times, and stop it."""
    postgres, s3 = programs(), program()
    assert postgres is not None, "PostgreSQL's server programs are not installed"
    assert s3 is not None, "rclone is not installed"
    with (
        PostgresServer(postgres) as server,
        S3Server(s3) as buckets,
        TcpProxy(server.socket) as database,
        TcpProxy(("127.0.0.1", buckets.port)) as bucket,
    ):
        direct = server.new_database()
        address = make_url(direct).set(host="127.0.0.1", port=database.port, query={})
        where = buckets.new_bucket()
        where["s3"] |= {"endpoint_url": f"http://127.0.0.1:{bucket.port}"}
        launched = Launched(
            folder,
            free_port(),
            models=[paced(0.05, replicas=3, cpus_per_replica=0.1)],
            tasks=_RULES,
            ingress_replicas=2,
            database_url=address.render_as_string(hide_password=False),
            **where,
            **SETTINGS,
        )
        outages = Outages(database, bucket, Random(plan.seed), away_s=away_s, slow_s=slow_s)
        drilling = Drill(plan, lambda: launched.service.url, outages, Work(_STEPS, image=_picture()))
        with launched:
            launched.start()
            verdict = asyncio.run(drilling.run())
            lost = asyncio.run(attempts_lost(direct, _MAX_ATTEMPTS))
        recovery_s = longest_recovery_s(
            outages.mended_at, drilling.submits.acknowledged_at, drilling.ended_at
        )
        return OutageOutcome(verdict, outages.struck, drilling.submits, recovery_s, lost)


def longest_recovery_s(
    mended_at: Sequence[float], acknowledged_at: Sequence[float], ended_at: Sequence[float]
) -> float:
    """Return the most seconds after an outage until a submit was acknowledged and a task was seen to end.

    What does not come any more, after the last submit, is not waited for.
    """
    return max(
        (max(_after(each, acknowledged_at), _after(each, ended_at)) for each in mended_at), default=0.0
    )


def _after(since: float, moments: Sequence[float]) -> float:
    return min((each - since for each in moments if each >= since), default=0.0)


def _picture() -> str:
    """Return a small picture as a request holds it."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 40, 40)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
