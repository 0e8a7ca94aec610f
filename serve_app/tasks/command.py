"""The answer to a runner's report: what it is to do with its run."""

from enum import IntFlag


class Command(IntFlag):
    """What the coordinator tells a runner.

    Sent as a plain number, of which a replica of an earlier version knows only whether it is 0.
    """

    LEAVE = 0
    """Abandon the run: the task was cancelled or given to another replica."""
    GO_ON = 1
    FINISH = 2
    """Decode what there is, and begin no further step and no further fragment."""
    SHOW = 4
    """Somebody looks: make previews until a command is without this."""
    HAND_BACK = 8
    """Keep what there is of the run, leave it at its next step, and hand the task back."""
