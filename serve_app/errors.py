"""The service's one error tree: every reason to refuse a request, each with one HTTP response.

    ServiceError                 500  internal             the base class, not raised itself
    ├── ImageUnreadable          400  image_unreadable
    ├── VideoUnreadable          400  video_unreadable
    ├── Unauthorized             401  unauthorized
    ├── HostNotAllowed           403  host_not_allowed
    ├── OtherSite                403  other_site
    ├── PathForbidden            403  path_forbidden
    ├── AdminOnly                403  admin_only
    ├── NotFound                 404  not_found
    │   ├── ModelNotFound        404  model_not_found
    │   ├── NoPreview            404  no_preview
    │   ├── TaskNotFound         404  task_not_found
    │   └── FileNotFound         404  file_not_found
    ├── Conflict                 409  conflict
    │   ├── NothingToSend        409  nothing_to_send
    │   ├── NotRunning           409  not_running
    │   ├── NotWaiting           409  not_waiting
    │   ├── ResultNotReady       409  result_not_ready
    │   └── TaskExists           409  task_exists
    ├── TooSlow                  408  too_slow
    ├── TooLarge                 413  too_large
    ├── InvalidField             422  invalid_field        .field
    ├── IdempotencyMismatch      422  idempotency_mismatch
    ├── TooManyRequests          429  too_many_requests    .retry_after_s
    │   ├── QueueFull            429  queue_full
    │   └── OverQuota            429  over_quota
    ├── Unavailable              503  unavailable
    │   ├── Draining             503  draining             .retry_after_s
    │   ├── StoreUnavailable     503  store_unavailable    .retry_after_s
    │   ├── FfmpegKilled         503  ffmpeg_killed        .retry_after_s
    │   └── NoReplica            503  no_replica
    └── DiskLow                  507  disk_low

A detail is one sentence for the client. The sentence is sent unchanged, so it contains no server path,
address or stack trace. The errors can be pickled, since they cross process boundaries.
"""

from typing import ClassVar

__all__ = [
    "AdminOnly",
    "Conflict",
    "DiskLow",
    "Draining",
    "FfmpegKilled",
    "FileNotFound",
    "HostNotAllowed",
    "IdempotencyMismatch",
    "ImageUnreadable",
    "InvalidField",
    "ModelNotFound",
    "NoPreview",
    "NoReplica",
    "NotFound",
    "NotRunning",
    "NotWaiting",
    "NothingToSend",
    "OtherSite",
    "OverQuota",
    "PathForbidden",
    "QueueFull",
    "ResultNotReady",
    "ServiceError",
    "StoreUnavailable",
    "TaskExists",
    "TaskNotFound",
    "TooLarge",
    "TooManyRequests",
    "TooSlow",
    "Unauthorized",
    "Unavailable",
    "VideoUnreadable",
]


class ServiceError(Exception):
    """A refusal with an HTTP response: ``status``, ``code`` and a ``detail`` sentence for the client."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail

    def __str__(self) -> str:
        return self.detail


class ImageUnreadable(ServiceError):
    """The input image is missing, is of another format, or cannot be decoded."""

    status = 400
    code = "image_unreadable"


class VideoUnreadable(ServiceError):
    """The input video is missing, is of another format, or cannot be decoded."""

    status = 400
    code = "video_unreadable"


class Unauthorized(ServiceError):
    """The request has no API key, or an unknown one."""

    status = 401
    code = "unauthorized"


class HostNotAllowed(ServiceError):
    """The request is addressed to a host name that is not this service's."""

    status = 403
    code = "host_not_allowed"


class OtherSite(ServiceError):
    """A web page of another site asked for a change."""

    status = 403
    code = "other_site"


class PathForbidden(ServiceError):
    """The client named a path outside the folders it may use."""

    status = 403
    code = "path_forbidden"


class AdminOnly(ServiceError):
    """The request is for the holders of admin keys."""

    status = 403
    code = "admin_only"


class NotFound(ServiceError):
    """The requested resource does not exist."""

    status = 404
    code = "not_found"


class ModelNotFound(NotFound):
    """No model of this name is served."""

    code = "model_not_found"


class NoPreview(NotFound):
    """The task has no preview: none yet, or nobody looked while it ran."""

    code = "no_preview"


class TaskNotFound(NotFound):
    """No task has this id."""

    code = "task_not_found"


class FileNotFound(NotFound):
    """No stored file has this name."""

    code = "file_not_found"


class Conflict(ServiceError):
    """The request is valid, but the task's state does not allow it."""

    status = 409
    code = "conflict"


class NothingToSend(Conflict):
    """No webhook message is stored about the task."""

    code = "nothing_to_send"


class NotRunning(Conflict):
    """The task waits or has ended, and so has nothing to finish."""

    code = "not_running"


class NotWaiting(Conflict):
    """The task runs or has ended, and so has no place in the queue."""

    code = "not_waiting"


class ResultNotReady(Conflict):
    """The task has no result: it has not finished, or it finished without one."""

    code = "result_not_ready"


class TaskExists(Conflict):
    """Another task already has this id."""

    code = "task_exists"


class TooSlow(ServiceError):
    """The body of the request takes too long to arrive."""

    status = 408
    code = "too_slow"


class TooLarge(ServiceError):
    """The body, the file or the image is over a limit in bytes or pixels."""

    status = 413
    code = "too_large"


class InvalidField(ServiceError):
    """A request field has an invalid value; ``field`` names it."""

    status = 422
    code = "invalid_field"

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(detail)
        self.field = field
        self.args = (field, detail)  # unpickling calls the class with these


class IdempotencyMismatch(ServiceError):
    """An ``Idempotency-Key`` was reused with a different request body."""

    status = 422
    code = "idempotency_mismatch"


class TooManyRequests(ServiceError):
    """A limit is reached; a retry may succeed after ``retry_after_s`` whole seconds."""

    status = 429
    code = "too_many_requests"

    def __init__(self, detail: str, retry_after_s: int) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s
        self.args = (detail, retry_after_s)  # unpickling calls the class with these


class QueueFull(TooManyRequests):
    """The queue has reached its limit of queued tasks."""

    code = "queue_full"


class OverQuota(TooManyRequests):
    """The API key has reached its limit of tasks or requests."""

    code = "over_quota"


class Unavailable(ServiceError):
    """The service cannot accept the request in its present state."""

    status = 503
    code = "unavailable"


class Draining(Unavailable):
    """The service is shutting down and accepts no task; retry after ``retry_after_s`` whole seconds."""

    code = "draining"

    def __init__(self, detail: str, retry_after_s: int) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s
        self.args = (detail, retry_after_s)  # unpickling calls the class with these


class StoreUnavailable(Unavailable):
    """The database or the store of files does not answer; retry after ``retry_after_s`` whole seconds.

    Whether a change under way was made is not known.
    """

    code = "store_unavailable"

    def __init__(self, detail: str, retry_after_s: int = 5) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s
        self.args = (detail, retry_after_s)  # unpickling calls the class with these


class FfmpegKilled(Unavailable):
    """The machine ended the program that reads pictures and videos; retry after ``retry_after_s`` seconds."""

    code = "ffmpeg_killed"

    def __init__(self, detail: str, retry_after_s: int = 5) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s
        self.args = (detail, retry_after_s)  # unpickling calls the class with these


class NoReplica(Unavailable):
    """No replica serves the model, and none can be started."""

    code = "no_replica"


class DiskLow(ServiceError):
    """The free disk space is below what a new task may need."""

    status = 507
    code = "disk_low"
