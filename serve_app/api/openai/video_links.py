"""What can follow an answer of the OpenAI surface, as links of the OpenAPI document."""

from collections.abc import Mapping
from typing import Any

from serve_app.api.http.links import TASK_IN_PATH, Answers, link, linked

_STEPS: Mapping[str, str] = {
    "retrieve": "How far the video is",
    "content": "The video itself, once it is completed",
    "cancel": "Cancel it",
    "remix": "Make it again with another prompt",
    "delete": "Forget it",
}
"""Operations that take a video's id in their path, by name."""
_MADE_OF_IT: Mapping[str, str] = {
    "edit": "Change it, once it is completed",
    "extend": "Make it longer, once it is completed",
}
"""Operations that take a video's id in their body, beside a prompt."""


def with_video_links(answers: Answers) -> Answers:
    """Return the answers with links to all that can be done with the video that they tell of."""
    steps = {
        step: link(f"openai_{step}", description, task_id="$response.body#/id")
        for step, description in _STEPS.items()
    }
    return linked(answers, {**steps, **_made_of("$response.body#/id")})


def with_content_links(answers: Answers) -> Answers:
    """Return the answers of a video's status with links to the video itself and to what is made of it."""
    content = link("openai_content", _STEPS["content"], task_id=TASK_IN_PATH)
    remix = link("openai_remix", _STEPS["remix"], task_id=TASK_IN_PATH)
    return linked(answers, {"content": content, "remix": remix, **_made_of(TASK_IN_PATH)})


def with_link_to_first(answers: Answers, operation: str, parameter: str) -> Answers:
    """Return the answers of a list with a link to its first entry."""
    first = link(operation, "The first of the list", **{parameter: "$response.body#/data/0/id"})
    return linked(answers, {"first": first})


def _made_of(video_id: str) -> Mapping[str, Mapping[str, Any]]:
    body = {"prompt": "the same at night", "video": {"id": video_id}}
    return {step: link(f"openai_{step}", description, body=body) for step, description in _MADE_OF_IT.items()}
