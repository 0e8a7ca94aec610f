"""How a video goes on from an earlier one."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Continuation:
    """The part of an earlier video that a task goes on from, of which it has a copy of its own."""

    end: int
    """Number of the earlier video's frames up to where the new ones begin."""
    tail: int
    """Number of frames before that which the first fragment begins with, without showing them again."""
    kept_ends: tuple[int, ...] = ()
    """Frames at the end of each fragment that is kept in front of the new ones; empty if none is."""
    key: str = ""
    """Key of the earlier video among the stored inputs; empty until it is stored."""
    task_id: str = ""
    """Id of the earlier video's task; empty for a video that a client sent, of which ``key`` has the end."""

    @property
    def kept_frames(self) -> int:
        """Number of frames that the new video begins with."""
        return self.end if self.kept_ends else 0
