"""Fingerprints of runs: two runs with the same one go through the same states, to the bit."""

import json
from collections.abc import Mapping
from dataclasses import fields
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from models.engine import EngineSettings, GenerationRequest
from models.errors import LoraFault
from models.lora.folder import LoraFolder
from models.parallel.plan import ParallelPlan
from models.weights.fingerprint import fingerprint

_FORMAT = 1
"""Raise it when the states of a run change their meaning, so that no run goes on from an older one."""


class Fingerprints:
    """The fingerprints of the runs of one replica: model, settings, parallel plan, LoRAs and request.

    The number of CPU threads counts, which changes the last bits of sums; the kind of GPU does not, nor the
    versions of libraries.
    """

    def __init__(self, settings: EngineSettings, plan: ParallelPlan) -> None:
        """Read the weights, which lie in a folder, in samples. Raises ``OSError``."""
        assert isinstance(settings.weights, Path), "fetch a model of the hub first"
        device = settings.device.partition(":")[0]
        self._model = _digest(
            {
                "format": _FORMAT,
                "variant": settings.variant.name,
                "device": device,
                "dtype": settings.dtype,
                "threads": settings.threads if device == "cpu" else None,
                "plan": [plan.cfg, plan.ring, plan.ulysses],
                "options": {name: repr(value) for name, value in settings.options.items()},
                "weights": fingerprint(settings.weights),
                "replaced": {part: fingerprint(path) for part, path in settings.replaced.items()},
                "fused": [
                    [fingerprint(lora.file), lora.strength, lora.expert] for lora in settings.fused_loras
                ],
            }
        )
        folder = settings.lora_folder
        two_experts = settings.variant.boundary is not None
        self._loras = None if folder is None else LoraFolder(folder, two_experts=two_experts)

    def of(self, request: GenerationRequest) -> str:
        """Return the fingerprint of a run of this request. Raises ``LoraFault``, ``OSError``."""
        asked = {field.name: _plain(getattr(request, field.name)) for field in fields(request)}
        loras = [self._lora(use.name) for use in request.loras]
        return _digest({"model": self._model, "request": asked, "loras": loras})

    def _lora(self, name: str) -> Mapping[str, str]:
        files: Mapping[Any, Path] | None = None if self._loras is None else self._loras.files(name)
        if files is None:
            raise LoraFault("does not exist.")
        return {expert: fingerprint(file) for expert, file in files.items()}


def _plain(value: object) -> object:
    """Return a field of a request as JSON has it; of pictures and videos a digest."""
    if isinstance(value, np.ndarray):
        return [list(value.shape), blake2b(np.ascontiguousarray(value).data, digest_size=16).hexdigest()]
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return repr(value)


def _digest(content: Mapping[str, object]) -> str:
    text = json.dumps(content, sort_keys=True)
    return blake2b(text.encode(), digest_size=16).hexdigest()
