"""The caller in whose name tasks are read and changed."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """The holder of an API key, and what the key allows. ``None``: no limit of its own."""

    name: str
    """The key's, and the owner of the tasks submitted with it."""
    is_admin: bool = False
    """Sees the tasks of all owners as if they were its own."""
    max_queued: int | None = None
    max_running: int | None = None
    max_priority: int | None = None

    def sees(self, owner: str) -> bool:
        """True if this caller may see the tasks of ``owner``."""
        return self.is_admin or owner == self.name


EVERYONE = Caller("", is_admin=True)
"""The caller of a service without keys, and the service itself."""
