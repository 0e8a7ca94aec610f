"""What can follow an answer that names a task, as links of the OpenAPI document."""

from collections.abc import Mapping

from serve_app.api.http.links import TASK_IN_PATH, Answers, link, linked

_STEPS: Mapping[str, str] = {
    "status": "How far the task is",
    "events": "The task as it changes",
    "preview": "What it looks like so far",
    "result": "The video, once the task has succeeded",
    "cancel": "Cancel it",
    "reorder": "Give it another priority while it waits",
    "put_first": "Put it before the others of its key while it waits",
    "finish_early": "End it with what it has made while it runs",
    "resend_webhooks": "Send the messages about it again",
}
"""Operations that take a task's id in their path, by name."""

_OPERATIONS = {"events": "task_events"}
"""Ids of operations that are called otherwise than their links."""


def with_task_links(answers: Answers, task_id: str, *statuses: int) -> Answers:
    """Return the answers with links to all that can be done with a task; ``task_id``: where its id is."""
    steps = {
        step: link(_OPERATIONS.get(step, step), description, task_id=task_id)
        for step, description in _STEPS.items()
    }
    again = link("again", "Make the video again, with changes", body={"task_id": task_id})
    return linked(answers, {**steps, "again": again}, *statuses)


def with_status_link(answers: Answers, task_id: str = TASK_IN_PATH) -> Answers:
    """Return the answers with a link to the task's status."""
    return linked(answers, {"status": link("status", _STEPS["status"], task_id=task_id)})


def with_result_links(answers: Answers) -> Answers:
    """Return the answers of a status with links to the video and all else that it leaves."""
    return linked(
        answers,
        {
            "result": link("result", _STEPS["result"], task_id=TASK_IN_PATH),
            "download": link(
                "download", "The video as an attachment", file_path="$response.body#/video_path"
            ),
            "last_frame": link(
                "last_frame", "Its last frame, where that was asked for", task_id=TASK_IN_PATH
            ),
            "resend_webhooks": link("resend_webhooks", _STEPS["resend_webhooks"], task_id=TASK_IN_PATH),
            "again": link("again", "Make the video again, with changes", body={"task_id": TASK_IN_PATH}),
        },
    )
