"""Placement of the replicas of each model on the GPUs that Ray sees, or on the CPUs of a machine without
GPUs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serve_app.config.model_settings import ModelSettings
from serve_app.config.section import SettingsError

_CPUS_FOR_THE_REST = 0.5
"""CPUs that ingress and coordinator hold."""


@dataclass(frozen=True, slots=True)
class Placement:
    """The replicas of one model: their number, their kind of device and their share of the machine."""

    replicas: int
    """Upper bound of the replicas of a model that scales."""
    device: str
    gpus: int
    """GPUs of a process with an engine: the replica's own, or each rank's."""
    cpus: float
    """CPUs of each process: of the replica and, if it has any, of each rank."""
    threads: int
    """CPU threads that an engine computes with, on all of its ranks together."""
    ranks: int = 1
    """Processes that share each run; 1 is the replica itself."""
    nodes: int = 1
    """Nodes that the ranks are on, each with as many."""

    def bundle_of(self, rank: int) -> int:
        """Return the index of a rank's bundle in the placement group of its replica.

        On one node the replica has bundle 0, and each rank one of its own: Ray numbers the devices of each.
        On several, every node has one bundle, and the replica is in the first.
        """
        return rank + 1 if self.nodes == 1 else rank // (self.ranks // self.nodes)

    @property
    def bundles(self) -> list[dict[str, float]]:
        """Resources of each bundle of a group's placement group."""
        rank = {"CPU": self.cpus, "GPU": float(self.gpus)} if self.gpus else {"CPU": self.cpus}
        if self.nodes == 1:
            return [{"CPU": self.cpus}, *[rank] * self.ranks]
        of_node = self.ranks // self.nodes
        share = {name: amount * of_node for name, amount in rank.items()}
        return [{**share, "CPU": share["CPU"] + self.cpus}, *[share] * (self.nodes - 1)]

    @property
    def strategy(self) -> str:
        """How Ray places the bundles: on one node, or each on a node of its own."""
        return "STRICT_PACK" if self.nodes == 1 else "STRICT_SPREAD"


def place(
    models: Sequence[ModelSettings], resources: Mapping[str, float], max_gpus: int | None = None
) -> Mapping[str, Placement]:
    """Distribute Ray's ``resources`` (``CPU`` and ``GPU`` counts of the cluster) over the models.

    ``max_gpus``: GPUs that an autoscaler may bring the cluster to, where there are fewer now.

    ``auto`` replicas: the GPUs that no other model always holds, split evenly, at least one replica each; one
    replica on a machine without GPUs. A model that scales may have, with ``auto``, all that the others do not
    always hold. Raises ``SettingsError`` for a model that needs more GPUs for one replica than there are.
    """
    seen, cpus = int(resources.get("GPU", 0)), resources.get("CPU", 1.0)
    gpus = max(seen, max_gpus or 0)
    devices = {model.name: _device(model, gpus) for model in models}
    on_gpu = [model for model in models if devices[model.name] == "cuda"]
    _require_gpus(models, on_gpu, gpus, "Ray sees" if gpus == seen else "max_gpus allows")
    counts = {model.name: _most(model) or max(1, _least(model)) for model in models}
    counts.update(_gpu_counts(on_gpu, gpus))
    on_cpu = sum(counts[model.name] for model in models if devices[model.name] == "cpu")
    processes = sum(counts[model.name] * _processes(model) for model in models)
    # Nodes that an autoscaler adds bring CPUs of their own.
    fair = 1.0 if gpus > seen else max(0.01, round((cpus - _CPUS_FOR_THE_REST) / max(1, processes), 2))
    return {
        model.name: Placement(
            replicas=counts[model.name],
            device=devices[model.name],
            gpus=int(model in on_gpu),
            cpus=model.cpus_per_replica / _processes(model) if model.cpus_per_replica else min(1.0, fair),
            threads=max(1, int(cpus) // max(1, on_cpu)),
            ranks=model.devices_per_replica,
            nodes=model.nodes_per_replica,
        )
        for model in models
    }


def _gpu_counts(models: Sequence[ModelSettings], gpus: int) -> Mapping[str, int]:
    """Return the replicas that each of these models, all on GPUs, gets or may get."""
    flexible = [model for model in models if _most(model) is None]
    promised = sum(_least(model) * model.devices_per_replica for model in models)
    share = (gpus - promised) // len(flexible) if flexible else 0

    def even(model: ModelSettings) -> int:
        return max(1, share // model.devices_per_replica)

    held = {
        model.name: (_least(model) if model.autoscaling else _most(model) or even(model))
        * model.devices_per_replica
        for model in models
    }

    def room(model: ModelSettings) -> int:
        others = sum(held.values()) - held[model.name]
        return max(1, _least(model), (gpus - others) // model.devices_per_replica)

    return {
        model.name: _most(model) or (room(model) if model.autoscaling else even(model)) for model in models
    }


def _require_gpus(
    models: Sequence[ModelSettings], on_gpu: Sequence[ModelSettings], gpus: int, source: str
) -> None:
    """Refuse a group larger than the cluster's GPUs: it would wait for ever. A cluster may still get its
    first GPUs.
    """
    for index, model in enumerate(models):
        if model in on_gpu and 0 < gpus < model.devices_per_replica:
            raise SettingsError(
                f"args.models[{index}].devices_per_replica: {model.devices_per_replica} GPUs are needed for "
                f"a replica of {model.name}, and {source} {gpus}."
            )


def _device(model: ModelSettings, gpus: int) -> str:
    return model.device if model.device != "auto" else "cuda" if gpus else "cpu"


def _processes(model: ModelSettings) -> int:
    """Count the processes of a replica: itself and its ranks, if any."""
    return 1 if model.devices_per_replica == 1 else 1 + model.devices_per_replica


def _least(model: ModelSettings) -> int:
    """Return the least number of replicas that the settings give the model."""
    if model.autoscaling is not None:
        return model.autoscaling.min_replicas
    return model.replicas if isinstance(model.replicas, int) else 0


def _most(model: ModelSettings) -> int | None:
    """Return the most replicas that the settings allow the model; None: as many as the machine has room
    for.
    """
    if model.autoscaling is not None:
        most = model.autoscaling.max_replicas
        return most if isinstance(most, int) else None
    return model.replicas if isinstance(model.replicas, int) else None
