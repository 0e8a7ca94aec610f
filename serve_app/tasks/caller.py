"""The caller on whose behalf tasks are read and changed."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """The holder of an API key, and the key's limits. ``None``: no limit for this key."""

    name: str
    """Name of the key, and owner of the tasks submitted with it."""
    is_admin: bool = False
    """True if the caller sees the tasks of all owners."""
    max_queued: int | None = None
    max_running: int | None = None
    max_priority: int | None = None

    def sees(self, owner: str) -> bool:
        """Return True if this caller may see the tasks of ``owner``."""
        return self.is_admin or owner == self.name


EVERYONE = Caller("", is_admin=True)
"""The caller of a service without API keys, and of the service's own calls."""
