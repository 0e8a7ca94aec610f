"""The room for further videos: without it no task is begun, which the log says once."""

import logging

from serve_app.files.free_disk import FreeDisk

_logger = logging.getLogger("ray.serve")


class Room:
    """Whether the disks have room for another video, as the dispatcher and the replicas ask."""

    def __init__(self, disk: FreeDisk) -> None:
        self._disk = disk
        self._was_there = True

    async def is_there(self) -> bool:
        """Return whether a task may be begun; log each change."""
        is_there = not await self._disk.is_low()
        if is_there != self._was_there:
            self._was_there = is_there
            if is_there:
                _logger.info("there is room on the disks again: waiting tasks are begun")
            else:
                _logger.warning("less than limits.min_free_bytes is left on a disk: no task is begun")
        return is_there
