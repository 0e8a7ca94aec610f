"""What can follow a submit on LightX2V's surface, as links of the OpenAPI document."""

from serve_app.api.http.links import TASK_IN_PATH, Answers, link, linked

_TASK = "$response.body#/task_id"


def with_task_links(answers: Answers) -> Answers:
    """Return the answers to a submit with links to the task's status, its video and its end."""
    return linked(
        answers,
        {
            "status": link("lightx2v_status", "How far the task is", task_id=_TASK),
            "result": link("lightx2v_result", "The video, once the task is completed", task_id=_TASK),
            "cancel": link("lightx2v_cancel", "Cancel it", task_id=_TASK),
        },
    )


def with_result_link(answers: Answers) -> Answers:
    """Return the answers of a status with a link to the video."""
    video = link("lightx2v_result", "The video, once the task is completed", task_id=TASK_IN_PATH)
    return linked(answers, {"result": video})


def with_local_link(answers: Answers) -> Answers:
    """Return the answers of the local API's submit with a link to the task's status."""
    status = link("local_task_status", "Whether the task is done", body={"task_id": _TASK})
    return linked(answers, {"task_status": status})
