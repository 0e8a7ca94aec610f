"""A child process that died by a signal."""

import signal


class ChildKilled(RuntimeError):
    """A signal ended ffmpeg, as of a kernel without memory: a fault of the machine, not of the work."""

    def __init__(self, exit_status: int) -> None:
        """``exit_status``: as ``subprocess`` has it, below 0."""
        try:
            name = signal.Signals(-exit_status).name
        except ValueError:
            name = f"signal {-exit_status}"
        super().__init__(f"ffmpeg was ended by {name}")
