"""The settings of one served model: variant, weights, number of replicas and the way they run it."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from models.engine import Expert
from models.errors import PlanError
from models.lora.catalogue import LoraCatalogue, fault_of
from models.parallel.plan import ParallelPlan, plan
from models.tuning import OPTIONS, WHOLE_STEPS, StepShares, Tuning, fault_in
from models.variants import VARIANTS, Variant
from models.weights_source import HubModel, WeightsSource, weights_source
from serve_app.config.section import Seconds, Section, SettingsError
from serve_app.findings import unknown

_ENGINE = "models.loading:load_engine"


class FusedLoraSettings(Section):
    """A LoRA that is fused into the weights when the model is loaded."""

    file: Path = Field(description="a safetensors file")
    strength: float = Field(default=1.0, ge=-10, le=10, description="factor of what it adds to the weights")
    expert: Expert = Field(default="both", description="the expert it is for, in a model with two")


class ParallelSettings(Section):
    """The parallel degrees of a replica. ``models.parallel.plan.plan`` chooses those that are not given."""

    cfg: int | None = Field(
        default=None, description="halves of guidance that run apart: 1 or 2; by default chosen"
    )
    ring: int | None = Field(
        default=None, description="ranks that keys and values travel around; by default chosen"
    )
    ulysses: int | None = Field(
        default=None, description="ranks that the attention heads are dealt out to; by default chosen"
    )


class AutoscalingSettings(Section):
    """Autoscaling of a model by its queued work. Bounds and delays are Ray Serve's own."""

    min_replicas: int = Field(
        default=1, ge=0, le=1024, description="replicas that always stay; with 0 the next task starts one"
    )
    max_replicas: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = Field(
        default="auto",
        description="replicas there may be; auto is as many as suit the GPUs that Ray sees, or may get by "
        "`max_gpus`, beside what other models always hold, or min_replicas on CPUs",
    )
    by: Literal["work", "requests"] = Field(
        default="work", description="what decides: seconds of work that wait, or requests, a replica for each"
    )
    target_queue_wait_s: Seconds = Field(
        default=30.0, description="longest wait for which no further replica is wanted, by work"
    )
    upscale_delay_s: Seconds = Field(
        default=3.0, description="how long more replicas must be wanted before they are started"
    )
    downscale_delay_s: Seconds = Field(
        default=300.0, description="how long fewer must be wanted before one is stopped"
    )
    downscale_to_zero_delay_s: Seconds | None = Field(
        default=None, description="the same for the last replica; by default downscale_delay_s"
    )

    @model_validator(mode="after")
    def _bounds_in_order(self) -> "AutoscalingSettings":
        if self.max_replicas != "auto" and self.min_replicas > self.max_replicas:
            raise ValueError("min_replicas: must not be above max_replicas")
        return self


class ModelSettings(Section):
    """Settings of a served model and the number of its replicas."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="what clients write in `model`")
    variant: str = Field(description="an entry of models.variants")
    weights: WeightsSource = Field(
        description="a diffusers folder, or a hub's model: org/name or org/name@revision"
    )
    offline: bool = Field(
        default=False, description="whether no hub may be asked: a hub's model must be in the cache"
    )
    transformer: Path | None = Field(
        default=None, description="safetensors in place of the transformer's: a file, an index or a folder"
    )
    transformer_2: Path | None = Field(default=None, description="the same for the low-noise expert")
    replaces: tuple[str, ...] = Field(
        default=(),
        description="names of models that are not served any more, whose tasks this one makes where it can",
    )
    replicas: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = Field(
        default="auto",
        description="how many; auto is as many as the GPUs that Ray sees suffice for, or one on CPUs",
    )
    devices_per_replica: int = Field(
        default=1, ge=1, le=64, description="GPUs that make each video together, as a group of ranks"
    )
    nodes_per_replica: int = Field(
        default=1, ge=1, le=8, description="nodes that a group's GPUs are on, up to eight and as many on each"
    )
    parallel: ParallelSettings = Field(
        default=ParallelSettings(), description="how the devices of a replica share a run"
    )
    autoscaling: AutoscalingSettings | None = Field(
        default=None, description="bounds between which the work decides, instead of replicas"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="what replicas run on; auto is cuda where Ray sees a GPU"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="the weights' number format; auto is bfloat16 on a GPU, float32 on a CPU"
    )
    cpus_per_replica: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="Ray CPUs a replica holds; by default 1 a process, or its share of a smaller machine",
    )
    engine: str = Field(
        default=_ENGINE,
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="import path of the engine factory",
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="handed to the engine factory; the default engine's are below"
    )
    video_encoder: Literal["libx264", "h264_nvenc"] = Field(
        default="libx264",
        description="what encodes H.264; h264_nvenc needs a GPU with a video encoder, which A100, H100 and "
        "H200 lack, and is tried at start",
    )
    lora_folder: Path | None = Field(default=None, description="LoRAs that requests may name")
    lora_cache_bytes: int = Field(default=4 << 30, ge=0, description="device memory for LoRAs in use")
    fused_loras: tuple[FusedLoraSettings, ...] = Field(
        default=(), description="LoRAs that are made part of the weights at start, such as a distillation"
    )

    @field_validator("weights", mode="before")
    @classmethod
    def _source(cls, value: object) -> object:
        return weights_source(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _known_variant(self) -> "ModelSettings":
        if self.variant not in VARIANTS:
            raise ValueError(f"variant: {self.variant!r} is unknown; allowed: {', '.join(sorted(VARIANTS))}")
        if self.transformer_2 is not None and self.spec.boundary is None:
            raise ValueError(f"transformer_2: {self.variant} has one transformer")
        return self

    @model_validator(mode="after")
    def _known_options(self) -> "ModelSettings":
        """Check the options of the default engine; any other engine checks its own when it loads."""
        fault = fault_in(self.options) if self.engine == _ENGINE else None
        if fault is None:
            return self
        if fault.reason is None:
            said = unknown("is not a setting", fault.name, [option.name for option in OPTIONS])
        else:
            said = fault.reason
        raise ValueError(f"options.{fault.name}: {said}")

    @property
    def step_shares(self) -> StepShares:
        """Shares of a run's steps that cost less; none by an engine other than the default."""
        return Tuning.from_options(self.options).step_shares if self.engine == _ENGINE else WHOLE_STEPS

    def lora_names(self) -> list[str]:
        """Return the names of the LoRAs in the folder now: they may come and go while it is served."""
        return [] if self.lora_folder is None else self._catalogue(self.lora_folder).names()

    def lora_notes(self, name: str) -> list[str]:
        """Return what is left out or guessed when a request names a LoRA of the folder, as sentences.

        Raises ``LoraFault`` for one that cannot be applied. What another engine applies, that engine knows.
        """
        if self.lora_folder is None or self.engine != _ENGINE:
            return []
        return self._catalogue(self.lora_folder).notes(name)

    def lora_bytes(self, name: str) -> int:
        """Return the bytes that a LoRA of the folder takes at least on the device; 0 for another engine's.

        Raises ``LoraFault`` for one that cannot be applied.
        """
        if self.lora_folder is None or self.engine != _ENGINE:
            return 0
        return self._catalogue(self.lora_folder).least_bytes(name)

    def lora_remarks(self) -> dict[str, str]:
        """Return the notes of those LoRAs in the folder that have any, or why a request is refused."""
        if self.lora_folder is None or self.engine != _ENGINE:
            return {}
        return self._catalogue(self.lora_folder).remarks()

    def _catalogue(self, folder: Path) -> LoraCatalogue:
        return LoraCatalogue(folder, self.spec, cache_bytes=self.lora_cache_bytes)

    @model_validator(mode="after")
    def _nodes_hold_the_devices(self) -> "ModelSettings":
        if self.devices_per_replica > 8 * self.nodes_per_replica:
            raise ValueError("devices_per_replica: is more than eight on each node; see nodes_per_replica")
        return self

    @model_validator(mode="after")
    def _devices_share_a_run(self) -> "ModelSettings":
        try:
            _ = self.plan
        except PlanError as error:
            raise ValueError(f"parallel: {error}".removesuffix(".")) from None
        return self

    @property
    def plan(self) -> ParallelPlan:
        """The parallel plan of a replica's devices."""
        return plan(
            self.devices_per_replica,
            self.spec.heads,
            guidance=not self.spec.distilled,
            nodes=self.nodes_per_replica,
            **self.parallel.model_dump(),
        )

    @model_validator(mode="after")
    def _one_rule_for_replicas(self) -> "ModelSettings":
        if self.autoscaling is not None and "replicas" in self.model_fields_set:
            raise ValueError("replicas: leave it out or leave out autoscaling; only one of them can decide")
        return self

    @property
    def by_work(self) -> bool:
        """True if the coordinator's estimate of the queued work decides the number of replicas."""
        return self.autoscaling is not None and self.autoscaling.by == "work"

    @property
    def spec(self) -> Variant:
        """The variant's entry."""
        return VARIANTS[self.variant]

    def succession_note(self, removed: str) -> str:
        """Return what the tasks of a removed model are told that this one makes."""
        return f"The model {removed} is not served any more; {self.name}, which replaces it, makes the video."

    def with_most(self, replicas: int) -> "ModelSettings":
        """Return these settings with ``replicas`` as the upper bound of autoscaling, if there is any."""
        if self.autoscaling is None:
            return self
        rules = self.autoscaling.model_copy(update={"max_replicas": replicas})
        return self.model_copy(update={"autoscaling": rules})

    def absolute(self, base: Path) -> "ModelSettings":
        """Return these settings with absolute paths, relative ones resolved against ``base``."""

        def path(given: Path) -> Path:
            return Path(os.path.abspath(base / given.expanduser()))

        source = self.weights
        if isinstance(source, HubModel):  # unless a folder in ``base`` has that name
            source = weights_source(str(source), base)
        loras = tuple(lora.model_copy(update={"file": path(lora.file)}) for lora in self.fused_loras)
        return self.model_copy(
            update={
                "weights": path(source) if isinstance(source, Path) else source,
                "transformer": self.transformer and path(self.transformer),
                "transformer_2": self.transformer_2 and path(self.transformer_2),
                "lora_folder": self.lora_folder and path(self.lora_folder),
                "fused_loras": loras,
            }
        )

    def require_files(self, key: str) -> None:
        """Raise ``SettingsError`` for a path that does not exist and for a fused LoRA that does not fit.

        ``key``: the place of these settings in the file.
        """
        if isinstance(self.weights, Path) and not self.weights.is_dir():
            raise SettingsError(
                f"{key}.weights: there is no folder {self.weights}; name a diffusers folder "
                "(models/demo/weights is the demo model's) or org/name on the hub."
            )
        for name, path in (("transformer", self.transformer), ("transformer_2", self.transformer_2)):
            if path is not None and not path.exists():
                raise SettingsError(f"{key}.{name}: there is no file or folder {path}.")
        if self.lora_folder is not None and not self.lora_folder.is_dir():
            raise SettingsError(f"{key}.lora_folder: there is no folder {self.lora_folder}.")
        for index, lora in enumerate(self.fused_loras):
            if not lora.file.is_file():
                raise SettingsError(f"{key}.fused_loras[{index}].file: there is no file {lora.file}.")
            fault = fault_of(lora.file, self.spec) if self.engine == _ENGINE else None
            if fault is not None:
                raise SettingsError(f"{key}.fused_loras[{index}].file: the LoRA {lora.file} {fault}")
