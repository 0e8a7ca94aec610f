"""Error tree of the models.

Each line is an error, and below it the kinds of it:

- ``ModelError``: the run cannot be finished; retrying the same run does not help
    - ``InvalidRequest``: the request asks for what this model cannot do; ``field`` is the field at fault
        - ``LoraRemoved``: the request names a LoRA that is not in the folder, or not any more
    - ``OutOfMemory``: the device has too little memory for this request
    - ``PlanError``: the devices of a group cannot share this model so; raised only while loading
    - ``TuningError``: a speed setting is unknown, or cannot work here; raised only while loading
    - ``WeightsError``: the weights folder cannot be served; raised only while loading
- ``EngineLost``: this engine can never be used again; another one can do the run
    - ``DeviceLost``: the device or its context failed, whatever it computed
    - ``GroupLost``: a rank of the group died, hung or failed alone
- ``LoraFault``: a LoRA cannot be used; the code that asked for it converts it to one of the above

Each class except ``LoraFault``, which never leaves ``models``, has a stable ``code`` for records and
responses. Messages are sentences for a person. Only ``WeightsError``, which the operator reads, may name a
folder of the server.
"""

from functools import partial
from typing import ClassVar


class ModelError(Exception):
    """A failure of a run in the model."""

    code: ClassVar[str] = "model_error"


class InvalidRequest(ModelError):
    """A request for something this model cannot do. ``field`` is the request's field at fault."""

    code: ClassVar[str] = "invalid_request"

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(message)
        self.field = field

    def __reduce__(self) -> tuple[object, ...]:
        # Exception's own pickling would call the class without ``field``.
        return partial(type(self), field=self.field), self.args


class LoraRemoved(InvalidRequest):
    """A request for a LoRA that is not there: a service has checked it at the submit, so it was removed."""

    code: ClassVar[str] = "lora_removed"


class OutOfMemory(ModelError):
    """Too little device memory for a request. The engine stays usable for a smaller one."""

    code: ClassVar[str] = "out_of_memory"


class PlanError(ModelError):
    """A parallel plan whose degrees do not fit the devices, the heads or the guidance."""

    code: ClassVar[str] = "plan_error"


class TuningError(ModelError):
    """A speed setting that does not exist, or that this device, library or model does not support."""

    code: ClassVar[str] = "tuning_error"


class WeightsError(ModelError):
    """A weights folder that is missing, incomplete, unsafe or of another model."""

    code: ClassVar[str] = "weights_error"


class EngineLost(Exception):
    """Loss of an engine, through no fault of the request. Never use the engine again; end its processes."""

    code: ClassVar[str] = "engine_lost"


class DeviceLost(EngineLost):
    """Loss of a device: its context, or a library on it, is in an unknown state."""

    code: ClassVar[str] = "device_lost"


class GroupLost(EngineLost):
    """Loss of a group: its ranks are out of step."""

    code: ClassVar[str] = "group_lost"


class LoraFault(Exception):
    """A LoRA that cannot be used, whether a request or the service's start asked for it.

    The message continues a sentence that begins with the LoRA's name.
    """


class LoraMissing(LoraFault):
    """A LoRA that is not in the folder."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type if the message is empty."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
