"""Parameters as they were loaded, kept for as long as LoRAs change them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.errors import OutOfMemory
from models.memory.check import free_bytes
from models.memory.estimate import GB
from models.memory.host_memory import HostCopy

_HOST = torch.device("cpu")


@dataclass(slots=True)
class Room:
    """Bytes of the device's memory that originals may still take; below 0 some have to leave it."""

    bytes: int

    def take(self, size_bytes: int) -> bool:
        """Take so many bytes if they are there; return whether they were."""
        if size_bytes > self.bytes:
            return False
        self.bytes -= size_bytes
        return True


class Originals:
    """Copies of parameters by name: on the device where there is room, else in the host's memory.

    One on the device is dropped when its parameter has it back, since a new copy costs little. One on the
    host stays for the next LoRA, since pinning memory is slow.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._on_device: dict[str, Tensor] = {}
        self._on_host: dict[str, HostCopy] = {}

    @property
    def movable_bytes(self) -> int:
        """Bytes of the device's memory that ``make_room`` can free."""
        return 0 if self._device.type == "cpu" else sum(kept.nbytes for kept in self._on_device.values())

    def find(self, name: str) -> Tensor | None:
        """Return a parameter's original, None if there is none."""
        if name in self._on_host:
            return self._on_host[name].tensor
        return self._on_device.get(name)

    def keep(self, name: str, parameter: Tensor, room: Room) -> Tensor:
        """Keep a parameter as it is now; return the copy. Raises ``OutOfMemory``."""
        if parameter.device.type == self._device.type and room.take(parameter.nbytes):
            self._on_device[name] = parameter.detach().clone()
            return self._on_device[name]
        return self._keep_on_host(name, parameter.detach())

    def leave(self, name: str) -> int:
        """Note that a parameter is its original again; return the bytes of it that the device has back."""
        dropped = self._on_device.pop(name, None)
        return 0 if dropped is None else dropped.nbytes

    def make_room(self, room: Room) -> None:
        """Move originals from the device to the host until ``room`` is at least 0. Raises ``OutOfMemory``."""
        while room.bytes < 0 and self.movable_bytes:
            name, kept = next(iter(self._on_device.items()))
            self._keep_on_host(name, kept)
            del self._on_device[name]
            room.bytes += kept.nbytes

    def _keep_on_host(self, name: str, tensor: Tensor) -> Tensor:
        free = free_bytes(_HOST)
        if self._device.type == "cpu" or tensor.nbytes > free:
            raise OutOfMemory(
                f"There is no memory left for the weights that LoRAs change: {free / GB:.1f} GB are free on "
                "the host."
            )
        self._on_host[name] = HostCopy(tensor, self._device)
        return self._on_host[name].tensor
