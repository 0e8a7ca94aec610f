"""The status documents of tasks, with the queue, the webhook messages and the uploads that belong to them."""

from collections.abc import Sequence

from serve_app.api.native.task_document import TaskDocument, task_document
from serve_app.submission.task_service import TaskService
from serve_app.tasks.task import Task


async def describe_all(
    service: TaskService, tasks: Sequence[Task], root_path: str, *, queue_now: bool = False
) -> list[TaskDocument]:
    """Return the status of each task; ``queue_now``: their places as they are now and not a moment ago."""
    queue = await (service.queue_now() if queue_now else service.queue())
    webhooks = await service.webhooks(tasks)
    uploads = await service.uploads(tasks)
    return [
        task_document(task, queue, webhooks.get(task.uid, ()), uploads.get(task.uid), root_path=root_path)
        for task in tasks
    ]


async def describe(
    service: TaskService, task: Task, root_path: str, *, queue_now: bool = False
) -> TaskDocument:
    """Return the status of one task."""
    (document,) = await describe_all(service, [task], root_path, queue_now=queue_now)
    return document
