"""Output paths of each caller's videos, and lookup of finished videos by name."""

import asyncio
from dataclasses import dataclass
from itertools import product

from serve_app.errors import FileNotFound, InvalidField, PathForbidden
from serve_app.files.output_paths import OutputPaths, SavePath
from serve_app.store.task_store import TaskStore
from serve_app.submission.field_words import FieldWords
from serve_app.submission.video_order import VideoOrder
from serve_app.tasks.caller import Caller
from serve_app.tasks.task import Task
from serve_app.tasks.video_output import VideoFormat


@dataclass(frozen=True, slots=True)
class VideoPlaces:
    """Resolver of video names to output paths, and of output paths to tasks."""

    outputs: OutputPaths
    store: TaskStore

    async def of_order(self, caller: Caller, order: VideoOrder, words: FieldWords, uid: str) -> str:
        """Return the public path of the order's video. Raises ``InvalidField`` or ``PathForbidden``."""
        outputs, form = self._of(caller), order.format or VideoFormat.MP4
        if not order.save_path:
            return outputs.default_path(order.task_id or uid, form)
        place = await asyncio.to_thread(outputs.resolve, order.save_path, words["save_path"], form=form)
        return outputs.public_path(place)

    async def published(self, caller: Caller, name: str) -> Task:
        """Return the newest finished task whose video has that name: asked of the store, never of the disk.

        Raises ``FileNotFound``, or ``PathForbidden`` for a name that leads out of the output folders.
        """
        own = self._of(caller)
        # Clients drop the slash that an absolute path begins with. An admin also names others' folders.
        spellings = [(own, name), (own, f"/{name}")]
        if own != self.outputs and caller.is_admin:
            spellings.append((self.outputs, name))
        # A name that ends in .webm may be that of an MP4, whose own suffix was added to it.
        forms = dict.fromkeys((VideoFormat.of_file(name) or VideoFormat.MP4, VideoFormat.MP4))
        for (outputs, spelling), form in product(spellings, forms):
            try:
                place = await asyncio.to_thread(outputs.resolve, spelling, form=form)
            except InvalidField:
                continue
            except PathForbidden:
                if spelling is name and ".." in name.split("/"):
                    raise
                continue
            task = await self.store.published_at(caller, self.outputs.public_path(place))
            if task is not None:
                return task
        raise FileNotFound("There is no finished video of that name.")

    async def place_of(self, task: Task) -> SavePath | None:
        """Return the place of the task's video, None if it is in none of the output folders any more."""
        return await asyncio.to_thread(self.outputs.place_of, task.save_path)

    def _of(self, caller: Caller) -> OutputPaths:
        """Return where the caller may have videos put: anywhere without keys, else below its own folder."""
        if not caller.name:
            return self.outputs
        return self.outputs.below(caller.name, takes_absolute=caller.is_admin)
