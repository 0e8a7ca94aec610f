"""Validation of task ids chosen by clients."""

import re

TASK_ID_PATTERN = r"[A-Za-z0-9._-]{1,128}"
RESERVED_IDS = frozenset({".", "..", "queue"})
"""Ids whose own URL would be read as something else."""

_TASK_ID = re.compile(TASK_ID_PATTERN)


def is_task_id(text: str) -> bool:
    """Tell whether a task can have this id."""
    return _TASK_ID.fullmatch(text) is not None and text not in RESERVED_IDS
