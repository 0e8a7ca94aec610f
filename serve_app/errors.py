"""The service's one error tree: every way a request can be refused, each with one HTTP answer.

    ServiceError                 500  internal             never raised itself
    ├── ImageUnreadable          400  image_unreadable
    ├── Unauthorized             401  unauthorized
    ├── PathForbidden            403  path_forbidden
    ├── NotFound                 404  not_found
    │   ├── TaskNotFound         404  task_not_found
    │   └── FileNotFound         404  file_not_found
    ├── Conflict                 409  conflict
    │   ├── ResultNotReady       409  result_not_ready
    │   └── TaskExists           409  task_exists
    ├── TooLarge                 413  too_large
    ├── InvalidField             422  invalid_field        .field
    ├── IdempotencyMismatch      422  idempotency_mismatch
    ├── TooManyRequests          429  too_many_requests    .retry_after_s
    │   ├── QueueFull            429  queue_full
    │   └── OverQuota            429  over_quota
    ├── Unavailable              503  unavailable
    │   ├── Draining             503  draining             .retry_after_s
    │   └── NoReplica            503  no_replica
    └── DiskLow                  507  disk_low

A detail is one sentence for the client. It never holds a server path, an address or a stack trace, because
it leaves the service as it stands. The errors survive pickling, since they cross from one process to another.
"""

from typing import ClassVar

__all__ = [
    "Conflict",
    "DiskLow",
    "Draining",
    "FileNotFound",
    "IdempotencyMismatch",
    "ImageUnreadable",
    "InvalidField",
    "NoReplica",
    "NotFound",
    "OverQuota",
    "PathForbidden",
    "QueueFull",
    "ResultNotReady",
    "ServiceError",
    "TaskExists",
    "TaskNotFound",
    "TooLarge",
    "TooManyRequests",
    "Unauthorized",
    "Unavailable",
]


class ServiceError(Exception):
    """A refusal with an HTTP answer: `status`, `code` and a `detail` sentence for the client."""

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


class Unauthorized(ServiceError):
    """The request carries no key, or one that the service does not know."""

    status = 401
    code = "unauthorized"


class PathForbidden(ServiceError):
    """A path that the client named lies outside the folders it may name."""

    status = 403
    code = "path_forbidden"


class NotFound(ServiceError):
    """What the request names is not there."""

    status = 404
    code = "not_found"


class TaskNotFound(NotFound):
    """No task has this id."""

    code = "task_not_found"


class FileNotFound(NotFound):
    """No kept file has this name."""

    code = "file_not_found"


class Conflict(ServiceError):
    """The request is sound, but the task's state does not allow it."""

    status = 409
    code = "conflict"


class ResultNotReady(Conflict):
    """The task has no result: it has not finished, or it finished without one."""

    code = "result_not_ready"


class TaskExists(Conflict):
    """Another task already has this id."""

    code = "task_exists"


class TooLarge(ServiceError):
    """The body, the file or the image is over a limit in bytes or pixels."""

    status = 413
    code = "too_large"


class InvalidField(ServiceError):
    """One request field has a value the service cannot take."""

    status = 422
    code = "invalid_field"

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(detail)
        self.field = field
        self.args = (field, detail)  # what unpickling calls the class with


class IdempotencyMismatch(ServiceError):
    """An `Idempotency-Key` came a second time, with another body."""

    status = 422
    code = "idempotency_mismatch"


class TooManyRequests(ServiceError):
    """The service takes no more for now; `retry_after_s` whole seconds later it may."""

    status = 429
    code = "too_many_requests"

    def __init__(self, detail: str, retry_after_s: int) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s
        self.args = (detail, retry_after_s)  # what unpickling calls the class with


class QueueFull(TooManyRequests):
    """As many tasks wait as the queue holds."""

    code = "queue_full"


class OverQuota(TooManyRequests):
    """This key has as many tasks or requests as it may have."""

    code = "over_quota"


class Unavailable(ServiceError):
    """The service cannot take the request in its present state."""

    status = 503
    code = "unavailable"


class Draining(Unavailable):
    """The service is shutting down and takes no new task; `retry_after_s` whole seconds later it may."""

    code = "draining"

    def __init__(self, detail: str, retry_after_s: int) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s
        self.args = (detail, retry_after_s)  # what unpickling calls the class with


class NoReplica(Unavailable):
    """No replica serves the model, and none can come."""

    code = "no_replica"


class DiskLow(ServiceError):
    """Less disk is free than a new task may need."""

    status = 507
    code = "disk_low"
