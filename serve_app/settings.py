"""The application's settings: the ``args`` of ``serve_config.yaml``, parsed once, frozen, checked at start.

Nothing else reads the configuration or the environment. Relative folders are taken from the folder
the service is started in.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from models.engine import Expert
from models.errors import PlanError
from models.lora_folder import LoraFolder
from models.parallel import ParallelPlan, plan
from models.variants import VARIANTS, Variant
from models.weights_source import HubModel, WeightsSource, weights_source

Seconds = Annotated[float, Field(gt=0)]


class SettingsError(ValueError):
    """A setting that stops the start: one sentence that names the key and what is allowed."""


class Section(BaseModel):
    """A part of the settings: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FusedLoraSettings(Section):
    """A LoRA that is always on."""

    file: Path
    strength: float = Field(default=1.0, ge=-10, le=10)
    expert: Expert = Field(default="both", description="of a model with two: high_noise or low_noise")


class ParallelSettings(Section):
    """How the devices of a replica share a run: what is not given is chosen, see ``models.parallel.plan``."""

    cfg: int | None = Field(default=None, description="2: the two prompts of a guided run apart")
    ring: int | None = Field(default=None, description="stations that keys and values travel through")
    ulysses: int | None = Field(default=None, description="parts that the attention heads are dealt out in")


class AutoscalingSettings(Section):
    """How many replicas a model has when its work decides. Bounds and delays are Ray Serve's own."""

    min_replicas: int = Field(
        default=1, ge=0, le=1024, description="0: the last replica goes too, and the next task starts one"
    )
    max_replicas: int = Field(ge=1, le=1024)
    by: Literal["work", "requests"] = Field(
        default="work", description="work: seconds of work that wait; requests: tasks, a replica for each"
    )
    target_queue_wait_s: Seconds = Field(
        default=30.0, description="by work: replicas are wanted until a task waits no longer than this"
    )
    upscale_delay_s: Seconds = Field(default=3.0, description="more must be wanted for so long")
    downscale_delay_s: Seconds = Field(default=300.0, description="fewer must be wanted for so long")
    downscale_to_zero_delay_s: Seconds | None = Field(
        default=None, description="the same for the last replica; default: downscale_delay_s"
    )

    @model_validator(mode="after")
    def _bounds_in_order(self) -> "AutoscalingSettings":
        if self.min_replicas > self.max_replicas:
            raise ValueError("min_replicas: must not be above max_replicas")
        return self


class ModelSettings(Section):
    """One served model and how many replicas of it there are."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="what clients write in `model`")
    variant: str = Field(description="an entry of models.variants")
    weights: WeightsSource = Field(
        description="a diffusers folder, or a hub's model: org/name or org/name@revision"
    )
    offline: bool = Field(default=False, description="ask no hub: a hub's model must be in the cache")
    transformer: Path | None = Field(
        default=None, description="safetensors in place of the transformer's: a file, an index or a folder"
    )
    transformer_2: Path | None = Field(default=None, description="the same for the low-noise expert")
    replicas: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = Field(
        default="auto",
        description="auto: as many as the GPUs that Ray sees suffice for, or one CPU replica without any",
    )
    devices_per_replica: int = Field(
        default=1, ge=1, le=8, description="above 1, each replica is a group of ranks that share every run"
    )
    parallel: ParallelSettings = ParallelSettings()
    autoscaling: AutoscalingSettings | None = Field(default=None, description="instead of replicas")
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto: cuda where Ray sees a GPU"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    cpus_per_replica: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="Ray CPUs a replica holds; default: 1 a process, or its share of a smaller machine",
    )
    engine: str = Field(
        default="models.loading:load_engine",
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="import path of the engine factory",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="handed to the engine factory")
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

    def lora_names(self) -> list[str]:
        """What is in the LoRA folder now: LoRAs may come and go while the model is served."""
        return [] if self.lora_folder is None else LoraFolder(self.lora_folder).names()

    @model_validator(mode="after")
    def _devices_share_a_run(self) -> "ModelSettings":
        try:
            _ = self.plan
        except PlanError as error:
            raise ValueError(f"parallel: {error}".removesuffix(".")) from None
        return self

    @property
    def plan(self) -> ParallelPlan:
        """How the devices of a replica share a run."""
        return plan(
            self.devices_per_replica,
            self.spec.heads,
            guidance=not self.spec.distilled,
            **self.parallel.model_dump(),
        )

    @model_validator(mode="after")
    def _one_rule_for_replicas(self) -> "ModelSettings":
        if self.autoscaling is not None and "replicas" in self.model_fields_set:
            raise ValueError("replicas: leave it out or leave out autoscaling; only one of them can decide")
        return self

    @property
    def by_work(self) -> bool:
        """Whether the coordinator's estimate decides how many replicas there are."""
        return self.autoscaling is not None and self.autoscaling.by == "work"

    @property
    def spec(self) -> Variant:
        """The variant's entry."""
        return VARIANTS[self.variant]


class TaskSettings(Section):
    """How tasks live and die."""

    max_attempts: int = Field(
        default=3, ge=1, le=10, description="runs a task gets before it fails as worker_lost"
    )
    lease_s: Seconds = Field(default=30.0, description="a runner silent for this long is taken for dead")
    heartbeat_s: Seconds = Field(
        default=2.0, description="a runner reports at each step and at least this often"
    )
    step_timeout_s: Seconds = Field(
        default=900.0, description="a run that makes no progress for this long is hung"
    )
    rank_timeout_s: Seconds = Field(
        default=120.0,
        description="a rank of a group that takes longer for one step, or one part of a decode, is hung",
    )
    longest_run_s: Seconds = Field(default=3600.0, description="grace that a stopping replica gets to finish")
    drain_s: float = Field(
        default=20.0, ge=0, description="how long running tasks may go on once the service is to stop"
    )
    retention_s: Seconds = Field(
        default=7 * 86400.0, description="ended tasks and their files are kept this long"
    )
    janitor_period_s: Seconds = 60.0

    @model_validator(mode="after")
    def _lease_outlives_heartbeat(self) -> "TaskSettings":
        if self.heartbeat_s * 3 > self.lease_s:
            raise ValueError("lease_s: must be at least three times heartbeat_s")
        return self


class LimitSettings(Section):
    """What one service takes in."""

    max_queued: int = Field(
        default=1000, ge=1, description="queued tasks before a submit is refused with 429"
    )
    max_image_bytes: int = Field(default=20_000_000, ge=1)
    max_image_pixels: int = Field(default=16_800_000, ge=1)
    min_free_bytes: int = Field(
        default=200_000_000, ge=0, description="disk left under which a submit gets 507"
    )
    max_priority: int = Field(default=10, ge=0, description="priorities are -max_priority … max_priority")


class KeySettings(Section):
    """One API key, known by its hash alone, and what its holder may do. ``scripts/make_key`` makes one."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$",
        description="owner of its tasks, and of a folder for their videos",
    )
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of the key, in hexadecimal digits")
    admin: bool = Field(default=False, description="sees and stops the tasks of every key")
    max_queued: int | None = Field(default=None, ge=1, description="its queued tasks before it gets a 429")
    max_running: int | None = Field(
        default=None, ge=1, description="its tasks beyond these wait in the queue"
    )
    max_priority: int | None = Field(default=None, ge=0, description="default: the service's own")
    weight: float = Field(
        default=1.0, ge=0.01, le=100, description="its share of a busy service, to the others' weights"
    )

    @model_validator(mode="after")
    def _folder_of_its_own(self) -> "KeySettings":
        if self.name == "videos":
            raise ValueError("name: must not be videos, the folder of videos that have no owner")
        return self


class AppSettings(Section):
    """Everything the application is told."""

    data_dir: Path = Field(default=Path("data"), description="database, inputs and, by default, outputs")
    database_url: str | None = Field(
        default=None,
        pattern=r"^(sqlite\+aiosqlite|postgresql\+asyncpg)://",
        description="default: SQLite in data_dir; postgresql+asyncpg://… for several nodes",
    )
    output_root: Path | None = Field(default=None, description="finished videos; default: data_dir/outputs")
    output_roots: tuple[Path, ...] = Field(
        default=(), description="further folders an absolute save path may name"
    )
    input_roots: tuple[Path, ...] = Field(default=(), description="folders that image_path may name files in")
    allow_image_urls: bool = Field(
        default=False, description="fetch http(s) image_path from public addresses"
    )
    ingress_replicas: int = Field(default=1, ge=1, le=64)
    access_log: bool = Field(default=False, description="a log line for each HTTP request")
    tasks: TaskSettings = TaskSettings()
    limits: LimitSettings = LimitSettings()
    keys: tuple[KeySettings, ...] = Field(
        default=(), description="who may use the service; none: whoever reaches it"
    )
    models: tuple[ModelSettings, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _unique_models(self) -> "AppSettings":
        names = [model.name for model in self.models]
        if len(set(names)) != len(names):
            raise ValueError("models: names must differ from each other")
        return self

    @model_validator(mode="after")
    def _unique_keys(self) -> "AppSettings":
        for field in ("name", "sha256"):
            if len({getattr(key, field) for key in self.keys}) != len(self.keys):
                raise ValueError(f"keys: each must have a {field} of its own")
        return self

    @property
    def store_url(self) -> str:
        """The database the task store opens."""
        return self.database_url or f"sqlite+aiosqlite:///{self.data_dir / 'tasks.db'}"

    @property
    def outputs(self) -> Path:
        """The output root, whose public name is ``outputs/``."""
        return self.output_root or self.data_dir / "outputs"

    @property
    def inputs(self) -> Path:
        """Where the images of submitted tasks are kept."""
        return self.data_dir / "inputs"

    def model(self, name: str) -> ModelSettings:
        """The served model of that name. Raises ``KeyError``."""
        for model in self.models:
            if model.name == name:
                return model
        raise KeyError(name)


def parse_settings(args: object, base: Path) -> AppSettings:
    """Check the ``args`` of the configuration and make every folder absolute, relative ones from ``base``.

    Raises ``SettingsError`` for an unknown key, a bad value, missing weights or a folder that cannot be
    written; its message is one sentence that names the key.
    """
    try:
        settings = AppSettings.model_validate(args)
    except ValidationError as error:
        raise SettingsError(_first_sentence(error)) from None
    settings = _absolute(settings, base)
    for index, model in enumerate(settings.models):
        _require_weights(f"args.models[{index}]", model)
    for key, folder in (
        ("data_dir", settings.data_dir),
        ("output_root", settings.outputs),
        ("data_dir", settings.inputs),
    ):
        _require_writable(key, folder)
    for index, folder in enumerate(settings.output_roots):
        _require_writable(f"output_roots[{index}]", folder)
    return settings


def _require_weights(key: str, model: ModelSettings) -> None:
    if isinstance(model.weights, Path) and not model.weights.is_dir():
        raise SettingsError(
            f"{key}.weights: there is no folder {model.weights}; "
            "name a diffusers folder (scripts/make_demo_model makes the demo model's) or org/name on the hub."
        )
    for name, path in (("transformer", model.transformer), ("transformer_2", model.transformer_2)):
        if path is not None and not path.exists():
            raise SettingsError(f"{key}.{name}: there is no file or folder {path}.")
    if model.lora_folder is not None and not model.lora_folder.is_dir():
        raise SettingsError(f"{key}.lora_folder: there is no folder {model.lora_folder}.")
    for index, lora in enumerate(model.fused_loras):
        if not lora.file.is_file():
            raise SettingsError(f"{key}.fused_loras[{index}].file: there is no file {lora.file}.")


def _absolute(settings: AppSettings, base: Path) -> AppSettings:
    def absolute(path: Path) -> Path:
        return Path(os.path.abspath(base / path.expanduser()))

    def absolute_model(model: ModelSettings) -> ModelSettings:
        source = model.weights
        if isinstance(source, HubModel):  # unless a folder in ``base`` has that name
            source = weights_source(str(source), base)
        return model.model_copy(
            update={
                "weights": absolute(source) if isinstance(source, Path) else source,
                "transformer": model.transformer and absolute(model.transformer),
                "transformer_2": model.transformer_2 and absolute(model.transformer_2),
                "lora_folder": model.lora_folder and absolute(model.lora_folder),
                "fused_loras": tuple(
                    lora.model_copy(update={"file": absolute(lora.file)}) for lora in model.fused_loras
                ),
            }
        )

    return settings.model_copy(
        update={
            "data_dir": absolute(settings.data_dir),
            "output_root": absolute(settings.outputs),
            "output_roots": tuple(absolute(root) for root in settings.output_roots),
            "input_roots": tuple(absolute(root) for root in settings.input_roots),
            "models": tuple(absolute_model(model) for model in settings.models),
        }
    )


def _require_writable(key: str, folder: Path) -> None:
    probe = folder / f".writable-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise SettingsError(
            f"args.{key}: {folder} cannot be written ({error.strerror}); name one this user may write to."
        ) from None


def _first_sentence(error: ValidationError) -> str:
    """The first finding of pydantic, said as ``args.key: what is allowed``."""
    finding = error.errors(include_url=False)[0]
    # Union members ("literal['auto']", "constrained-int") stand in pydantic's path, but not in the file.
    key = "args"
    for part in finding["loc"]:
        if isinstance(part, int):
            key += f"[{part}]"
        elif part.isidentifier() and part != "int":
            key += f".{part}"
    message = finding["msg"]
    if finding["type"] == "value_error":
        # Our own checks look at a whole section and begin their sentence with the key at fault.
        return f"{key}.{message.removeprefix('Value error, ')}."
    if finding["type"] == "extra_forbidden":
        parent = _section_at(finding["loc"][:-1])
        message = f"is not a setting; allowed here: {', '.join(parent.model_fields)}"
    elif finding["type"] == "missing":
        message = "is required"
    return f"{key}: {message[0].lower()}{message[1:].rstrip('.')}."


def _section_at(path: tuple[int | str, ...]) -> type[Section]:
    sections: dict[str, type[Section]] = {
        "models": ModelSettings,
        "fused_loras": FusedLoraSettings,
        "parallel": ParallelSettings,
        "autoscaling": AutoscalingSettings,
        "tasks": TaskSettings,
        "limits": LimitSettings,
        "keys": KeySettings,
    }
    innermost_first = (part for part in reversed(path) if isinstance(part, str))
    return next((sections[part] for part in innermost_first if part in sections), AppSettings)
