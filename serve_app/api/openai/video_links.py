"""What can follow an answer of the OpenAI surface, as links of the OpenAPI document."""

from collections.abc import Mapping

from serve_app.api.http.links import TASK_IN_PATH, Answers, link, linked

_STEPS: Mapping[str, str] = {
    "retrieve": "How far the video is",
    "content": "The video itself, once it is completed",
    "cancel": "Cancel it",
    "remix": "Make it again with another prompt",
    "delete": "Forget it",
}
"""Operations that take a video's id in their path, by name."""


def with_video_links(answers: Answers) -> Answers:
    """Return the answers with links to all that can be done with the video that they tell of."""
    steps = {
        step: link(f"openai_{step}", description, task_id="$response.body#/id")
        for step, description in _STEPS.items()
    }
    return linked(answers, steps)


def with_content_link(answers: Answers) -> Answers:
    """Return the answers of a video's status with a link to the video itself."""
    return linked(answers, {"content": link("openai_content", _STEPS["content"], task_id=TASK_IN_PATH)})


def with_link_to_first(answers: Answers, operation: str, parameter: str) -> Answers:
    """Return the answers of a list with a link to its first entry."""
    first = link(operation, "The first of the list", **{parameter: "$response.body#/data/0/id"})
    return linked(answers, {"first": first})
