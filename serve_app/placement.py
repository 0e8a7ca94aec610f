"""Where the replicas of each model go: on the GPUs that Ray sees, or on the CPUs of a machine without."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serve_app.settings import ModelSettings

_CPUS_FOR_THE_REST = 0.5
"""What ingress and coordinator hold."""


@dataclass(frozen=True, slots=True)
class Placement:
    """The replicas of one model: how many, on which kind of device, with which share of the machine."""

    replicas: int
    """At most so many, where the model scales."""
    device: str
    gpus: int
    cpus: float
    threads: int
    """CPU threads an engine computes with."""


def place(models: Sequence[ModelSettings], resources: Mapping[str, float]) -> Mapping[str, Placement]:
    """Share out Ray's ``resources`` (``CPU`` and ``GPU`` counts of the cluster) over the models.

    ``auto`` replicas: the GPUs that the other models always hold leave, split evenly, at least one each;
    one replica on a machine without GPUs.
    """
    gpus, cpus = int(resources.get("GPU", 0)), resources.get("CPU", 1.0)
    devices = {model.name: _device(model, gpus) for model in models}
    on_gpu = [model for model in models if devices[model.name] == "cuda"]
    flexible = sum(_most(model) is None for model in on_gpu)
    share = max(1, (gpus - sum(map(_least, on_gpu))) // flexible) if flexible else 0
    counts = {model.name: _most(model) or (share if model in on_gpu else 1) for model in models}
    on_cpu = sum(counts[model.name] for model in models if devices[model.name] == "cpu")
    placements = {}
    for model in models:
        device = devices[model.name]
        fair = max(0.01, round((cpus - _CPUS_FOR_THE_REST) / max(1, sum(counts.values())), 2))
        placements[model.name] = Placement(
            replicas=counts[model.name],
            device=device,
            gpus=int(device == "cuda"),
            cpus=model.cpus_per_replica or min(1.0, fair),
            threads=max(1, int(cpus) // max(1, on_cpu)),
        )
    return placements


def _device(model: ModelSettings, gpus: int) -> str:
    return model.device if model.device != "auto" else "cuda" if gpus else "cpu"


def _least(model: ModelSettings) -> int:
    """Replicas that the settings promise the model."""
    if model.autoscaling is not None:
        return model.autoscaling.min_replicas
    return model.replicas if isinstance(model.replicas, int) else 0


def _most(model: ModelSettings) -> int | None:
    """Replicas that the settings allow the model; None: what the machine has."""
    if model.autoscaling is not None:
        return model.autoscaling.max_replicas
    return model.replicas if isinstance(model.replicas, int) else None
