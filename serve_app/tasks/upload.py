"""Records of uploads: where a client wants its video sent, and how far that is."""

from dataclasses import dataclass, field

from serve_app.tasks.webhook import DeliveryState

_SHOWN_CHARS = 500


@dataclass(frozen=True, slots=True)
class Upload:
    """The sending of one task's video to its client's storage. Times are in seconds since 1970, UTC.

    There is one for each task, from the moment that its video is there.
    """

    task_uid: str
    url: str = field(repr=False)
    """A presigned URL: whoever has it may write there. Only ``shown`` goes into an answer or a log."""
    endpoint: str
    """Hash of owner and host: whom a wish to slow down concerns."""
    state: DeliveryState
    """Never ``disabled``."""
    attempts: int
    next_at: float | None
    """Time of the next attempt; None when there is none to come."""
    last_at: float | None = None
    last_code: int | None = None
    """HTTP status of the last attempt's answer; None without an answer."""
    last_fault: str | None = None
    """Why the last attempt failed, as a sentence; None after an answer of 2xx."""

    @property
    def id(self) -> str:
        """What tells it from other uploads."""
        return self.task_uid


def shown(url: str) -> str:
    """Return a presigned URL without its query, which holds the secret, cut to a readable length."""
    return url.partition("?")[0].partition("#")[0][:_SHOWN_CHARS]
