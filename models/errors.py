"""Everything a model raises on purpose.

    ModelError                 the run cannot be finished; retrying the same run does not help
    ├── InvalidRequest         the request asks for what this model cannot do; ``field`` names the culprit
    ├── OutOfMemory            the device has too little memory for this request
    ├── PlanError              the devices of a group cannot share this model so; raised only while loading
    ├── TuningError            a speed setting is unknown, or cannot work here; raised only while loading
    └── WeightsError           the weights folder cannot be served; raised only while loading
    GroupLost                  a rank of the group died, hung or failed alone; another group can do the run
    LoraFault                  a LoRA cannot be used; whoever asked for it turns it into one of the above

Each class but ``LoraFault``, which never leaves ``models``, has a stable ``code`` for records and responses.
Messages are sentences for a person.
Only ``WeightsError``, which whoever starts the service reads, may name a folder of the server.
"""

from functools import partial
from typing import ClassVar


class ModelError(Exception):
    """A run failed in the model."""

    code: ClassVar[str] = "model_error"


class InvalidRequest(ModelError):
    """The request asks for something this model cannot do. ``field`` is the request's field at fault."""

    code: ClassVar[str] = "invalid_request"

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(message)
        self.field = field

    def __reduce__(self) -> tuple[object, ...]:
        # Exception's own pickling would call the class without ``field``.
        return partial(type(self), field=self.field), self.args


class OutOfMemory(ModelError):
    """The device ran out of memory. The engine stays usable for a smaller request."""

    code: ClassVar[str] = "out_of_memory"


class PlanError(ModelError):
    """The devices cannot be split so: degrees that do not fit the devices, the heads or the guidance."""

    code: ClassVar[str] = "plan_error"


class TuningError(ModelError):
    """A speed setting that does not exist, or that this device, library or model cannot do. Says why."""

    code: ClassVar[str] = "tuning_error"


class WeightsError(ModelError):
    """The weights folder is missing, incomplete, unsafe or of another model."""

    code: ClassVar[str] = "weights_error"


class GroupLost(Exception):
    """The ranks of a group no longer run together. The group is never used again: end all its processes."""

    code: ClassVar[str] = "group_lost"


class LoraFault(Exception):
    """A LoRA that cannot be used, before it is known whether a request or the service's start asked for it.

    The message continues a sentence that begins with the LoRA's name.
    """


def first_line(error: BaseException) -> str:
    """The first line of what ``error`` says, or the name of its type where it says nothing."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
