"""The schedule of attempts: what follows from a receiver's answer, or from none."""

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from serve_app.store.delivery_ledger import Outcome
from serve_app.tasks.webhook import DeliveryState

DELAYS_S = (5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
"""Seconds after each failed attempt until the next one: the sample schedule of Standard Webhooks."""

MAX_JITTER = 0.2
"""Most of a delay that is added to it at random, so that receivers that come back are not hit at once."""

_MAX_RETRY_AFTER_S = 86_400.0
_LEAST_REST_S = 30.0
"""Least seconds for which a receiver is left alone that asks to be."""

_GONE = 410
_SLOW_DOWN = frozenset({429, 502, 504})


@dataclass(frozen=True, slots=True)
class Answer:
    """What an attempt came to."""

    code: int | None
    """HTTP status; None without an answer."""
    fault: str | None = None
    """Why it counts as a failure, as a sentence; None for 2xx."""
    retry_after_s: float | None = None
    """Seconds that the receiver asked to wait."""
    is_last: bool = False
    """Whether a further attempt could come to nothing else."""


def outcome(answer: Answer, *, attempts: int, at: float, jitter: float) -> Outcome:
    """Decide what follows an attempt made at ``at``, after ``attempts`` earlier ones.

    ``jitter``: the part of the delay that is added to it, 0 … ``MAX_JITTER``.
    """
    if answer.fault is None:
        return Outcome(DeliveryState.DELIVERED, at, answer.code, None, None)
    if answer.is_last:
        return Outcome(DeliveryState.FAILED, at, answer.code, answer.fault, None)
    if answer.code == _GONE:
        return Outcome(DeliveryState.DISABLED, at, answer.code, answer.fault, None)
    wait_s = answer.retry_after_s or 0.0
    rests_until = None
    if answer.code in _SLOW_DOWN or wait_s:
        rests_until = at + max(wait_s, _LEAST_REST_S)
    if attempts >= len(DELAYS_S):
        return Outcome(DeliveryState.FAILED, at, answer.code, answer.fault, None, rests_until)
    next_at = at + max(DELAYS_S[attempts] * (1 + jitter), wait_s)
    return Outcome(DeliveryState.PENDING, at, answer.code, answer.fault, next_at, rests_until)


def retry_after_s(header: str | None, now: float) -> float | None:
    """Return the seconds of a ``Retry-After`` header, at most a day; None without one that can be read."""
    if not header:
        return None
    try:
        seconds = float(header) if header.strip().isdigit() else _until(header, now)
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER_S)


def _until(date: str, now: float) -> float:
    moment = parsedate_to_datetime(date)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - datetime.fromtimestamp(now, UTC)).total_seconds()
