"""What each route takes and tells, for the tests that go through all routes."""

from typing import Any

DONE, RUNNING, QUEUED = "hers-done", "hers-running", "hers-queued"

UNSUPPORTED = {"/v1/videos/characters"}
"""What OpenAI's API has and this one has not: refused with a sentence, whoever asks."""
SAYS_NOTHING = ("DELETE", "/lightx2v/v1/tasks/{task_id}")
"""Answers 200 for a task that is not the caller's, as for one that is not there: LightX2V's own shape."""
FORGETS = ("DELETE", "/v1/videos/{task_id}")

OF_A_MODEL = "/v1/models/{model}"
"""The route that names no task in its path, but a model."""

AGAIN = "/v1/tasks/video/again"
EDIT = "/v1/videos/edits"
"""Refused to all with the demo model, which takes no video to change."""
EXTEND = "/v1/videos/extensions"
OF_A_TASK_IN_THE_BODY = {AGAIN, EDIT, EXTEND}
"""Routes that name a task in their body."""

BODIES: dict[str, dict[str, Any]] = {
    "/v1/tasks/video": {"prompt": "a dog"},
    "/v1/tasks/video/form": {"prompt": "a dog"},
    AGAIN: {"task_id": DONE},
    "/v1/local/video/generate": {"task_id": "x", "prompt": "a dog", "save_video_path": "x.mp4"},
    "/v1/local/video/generate/task_status": {"task_id": DONE},
    "/v1/tasks/{task_id}": {"priority": 1},
    "/v1/tasks/{task_id}/webhooks/resend": {},
    "/v1/tasks/{task_id}/next": {},
    "/v1/tasks/{task_id}/finish_early": {},
    "/v1/tasks/queue/pause": {},
    "/v1/tasks/queue/resume": {},
    **{f"/lightx2v/v1/tasks{end}": {"prompt": "a dog"} for end in ("", "/form", "/video", "/video/form")},
    "/lightx2v/v1/local/video/generate": {"task_id": "y", "prompt": "a dog", "save_video_path": "y.mp4"},
    "/lightx2v/v1/local/video/generate/task_status": {"task_id": DONE},
    "/v1/videos": {"prompt": "a dog"},
    "/v1/videos/{task_id}/cancel": {},
    "/v1/videos/{task_id}/remix": {"prompt": "a dog"},
    EDIT: {"prompt": "a dog", "video": {"id": DONE}},
    EXTEND: {"prompt": "a dog", "video": {"id": DONE}},
    **{path: {} for path in UNSUPPORTED},
}
"""The body of each POST and PATCH. A new route must be added here."""

STOPS = {
    ("DELETE", "/v1/tasks/{task_id}"),
    ("DELETE", "/v1/tasks/all/running"),
    ("GET", "/v1/local/video/generate/stop_running_task"),
    ("DELETE", "/lightx2v/v1/tasks/{task_id}"),
    ("DELETE", "/lightx2v/v1/tasks/running"),
    ("DELETE", "/lightx2v/v1/tasks/all/running"),
    ("GET", "/lightx2v/v1/local/video/generate/stop_running_task"),
}
STOPS_WAITING = ("DELETE", "/v1/tasks/all/waiting")
OF_A_WAITING_TASK = {("PATCH", "/v1/tasks/{task_id}"), ("POST", "/v1/tasks/{task_id}/next")}
TELLS_WHICH = {
    "/v1/tasks": [DONE, RUNNING, QUEUED],
    "/v1/tasks/queue/status": [RUNNING],
    "/v1/service/status": [RUNNING],
    "/v1/service/metadata": [],
    "/lightx2v/v1/tasks": [DONE, RUNNING, QUEUED],
    "/lightx2v/v1/tasks/queue/status": [RUNNING],
    "/lightx2v/v1/service/status": [RUNNING],
    "/lightx2v/v1/service/metadata": [],
    "/lightx2v/v1/local/video/generate/service_status": [],
    "/lightx2v/v1/local/video/generate/get_all_tasks": [DONE],
    "/lightx2v/v1/local/video/generate/stop_running_task": [],
    "/v1/videos": [DONE, RUNNING, QUEUED],
    "/v1/models": [],
    "/v1/local/video/generate/service_status": [],
    "/v1/local/video/generate/get_all_tasks": [DONE],
    "/v1/local/video/generate/stop_running_task": [],
}
"""The tasks that each GET without parameters tells their owner. A new route must be added here."""


ENDLESS = "/v1/events"
"""The stream whose body has no end; ``test_events.py`` reads it with several keys."""
