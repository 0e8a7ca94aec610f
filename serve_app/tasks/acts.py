"""Acts of callers: what the holder of a key had the service do, told to whoever keeps a record of it."""

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

from serve_app.tasks.caller import Caller


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request comes from."""

    address: str = ""
    """Of the peer, which may be a proxy."""
    forwarded_for: str = ""
    """What a proxy, or the client itself, says of addresses before."""


NOWHERE = Origin()

ORIGIN: ContextVar[Origin] = ContextVar("wan_serve_origin", default=NOWHERE)
"""The origin of the request that is being answered."""


class Acts(Protocol):
    """A record of acts."""

    def did(self, caller: Caller, act: str, **about: str | None) -> None:
        """Note that ``caller`` did ``act`` just now. Returns at once, never raises.

        ``about``: ids and names alone, such as ``task_id``, ``owner`` and ``model``.
        """


class NoActs:
    """The record of a service without ``audit``."""

    def did(self, caller: Caller, act: str, **about: str | None) -> None:
        """Do nothing."""


NO_ACTS = NoActs()
