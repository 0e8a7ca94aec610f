"""What a client knows of a service before it asks, and the models that it serves."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from wan_serve.call import strange

DEFAULT_URL = "http://127.0.0.1:8000"
TIMEOUT_S = 60.0
"""The longest silence: a stream of events says something every 15 s."""
RETRIES = 8
"""Further tries of a call: with their pauses some two minutes without a service."""


@dataclass(frozen=True, slots=True)
class Model:
    """A served model; ``document`` is ``ModelDocument`` in docs/api.md."""

    name: str
    variant: str
    tasks: tuple[str, ...]
    """What it makes videos from: of ``t2v``, ``i2v`` and ``flf2v``."""
    loras: tuple[str, ...]
    document: Mapping[str, Any]


def headers(key: str | None) -> dict[str, str]:
    """Return the headers of every request."""
    return {"Authorization": f"Bearer {key}"} if key else {}


def models_of(answer: httpx.Response) -> tuple[Model, ...]:
    """Read the served models. Raises ``Unreachable`` if the answer is of something else."""
    try:
        return tuple(
            Model(model["name"], model["variant"], tuple(model["tasks"]), tuple(model["loras"]), model)
            for model in answer.json()["models"]
        )
    except (KeyError, TypeError, ValueError):
        raise strange(answer) from None
