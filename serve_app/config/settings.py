"""The application's settings: the ``args`` of ``serve_config.yaml``, parsed once, frozen, checked at start.

No other module reads the ``args``. The rest of the file is Ray's; ``serve_app.launch`` reads its port and the
drain time. Relative folders are resolved against the folder that the service is started in.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from serve_app.config.audit_settings import AuditSettings
from serve_app.config.key_settings import KeySettings
from serve_app.config.model_settings import ModelSettings
from serve_app.config.prompt_enhancer_settings import PromptEnhancerSettings
from serve_app.config.s3_settings import S3Settings
from serve_app.config.section import Seconds, Section, SettingsError, model_in
from serve_app.config.store_environment import with_stores_of_the_environment
from serve_app.config.tracing_settings import TracingSettings
from serve_app.config.upload_settings import UploadSettings
from serve_app.config.webhook_secret import secret_bytes
from serve_app.config.webhook_settings import WebhookSettings
from serve_app.findings import Loc, path, reason, unknown
from serve_app.tasks.fair_share import Share, Shares


def _host_pattern(text: str) -> str:
    if not re.fullmatch(r"\*|(\*\.)?\w([\w.-]*\w)?", text, re.ASCII):
        raise ValueError("must be host names without a port, such as video.example.com, *.example.com or *")
    return text


def _origin(text: str) -> str:
    if not re.fullmatch(r"https?://([a-z0-9_.-]+|\[[0-9a-f:.]+\])(:\d{1,5})?", text, re.ASCII):
        raise ValueError("must be origins as browsers write them, such as https://app.example.com")
    return text


HostPattern = Annotated[str, AfterValidator(_host_pattern)]
Origin = Annotated[str, AfterValidator(_origin)]
"""A site: scheme and host in lower case, and the port if it is not the scheme's own."""


class TaskSettings(Section):
    """Attempts, leases, time-outs and retention of tasks."""

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
        default=20.0,
        ge=0,
        description="how long running tasks may go on once the service is to stop, or a newer one leads",
    )
    checkpoint_every_s: float = Field(
        default=60.0,
        ge=0,
        description="how often what a run has done is kept, for another replica to go on from; none of a "
        "shorter run, nor with 0",
    )
    retention_s: Seconds = Field(
        default=7 * 86400.0, description="ended tasks and their files are kept this long"
    )
    removed_after_s: Seconds = Field(
        default=7 * 86400.0,
        description="how long tasks wait for a model that no service has in its configuration any more, "
        "before they fail as model_removed",
    )
    janitor_period_s: Seconds = Field(
        default=60.0, description="how often what is past its time is looked for and deleted"
    )

    @model_validator(mode="after")
    def _lease_outlives_heartbeat(self) -> "TaskSettings":
        if self.silence_s > self.lease_s:
            raise ValueError("lease_s: must be at least three times heartbeat_s")
        return self

    @model_validator(mode="after")
    def _services_are_heard_of(self) -> "TaskSettings":
        if self.removed_after_s < self.unnamed_s:
            raise ValueError("removed_after_s: must be at least three times janitor_period_s")
        return self

    @property
    def grace_s(self) -> float:
        """Seconds that runs have to report to a coordinator that could not hear them."""
        return min(self.lease_s, 5 * self.heartbeat_s)

    @property
    def silence_s(self) -> float:
        """Seconds after which a silent replica no longer counts: three missed heartbeats."""
        return 3 * self.heartbeat_s

    @property
    def unnamed_s(self) -> float:
        """Seconds after which no service has a model that none has named: each does in every period."""
        return 3 * self.janitor_period_s


class LimitSettings(Section):
    """Limits on the requests that one service accepts."""

    max_queued: int = Field(
        default=1000, ge=1, description="queued tasks before a submit is refused with 429"
    )
    max_image_bytes: int = Field(
        default=20_000_000, ge=1, description="size of a picture's file; a larger one gets 413"
    )
    max_image_pixels: int = Field(
        default=16_800_000, ge=1, description="width times height of a picture; more gets 413"
    )
    max_video_bytes: int = Field(
        default=32_000_000,
        ge=1,
        description="size of the file of a video to change, of its mask, or of one to go on from",
    )
    max_video_pixels: int = Field(
        default=8_900_000, ge=1, description="width times height of such a video; more gets 400"
    )
    max_video_s: Seconds = Field(default=120.0, description="length of such a video; a longer one gets 413")
    min_free_bytes: int = Field(
        default=200_000_000, ge=0, description="disk left under which a submit gets 507 and no task is begun"
    )
    max_priority: int = Field(default=10, ge=0, description="priorities are -max_priority … max_priority")


class AppSettings(Section):
    """All settings of the application."""

    data_dir: Path = Field(default=Path("data"), description="database, inputs and, by default, outputs")
    database_url: str | None = Field(
        default=None,
        pattern=r"^(sqlite\+aiosqlite|postgresql\+asyncpg)://",
        description="where tasks are kept: SQLite in data_dir, or postgresql+asyncpg://… for several nodes",
    )
    artifacts_url: str | None = Field(
        default=None,
        pattern=r"^s3://[a-z0-9.-]{3,63}(/[\w.-]+)*$",
        description="where videos, inputs and previews are kept: in folders, or s3://bucket/prefix for "
        "several nodes, with the extra s3",
    )
    s3: S3Settings = Field(default=S3Settings(), description="the S3 service of artifacts_url")
    output_root: Path | None = Field(default=None, description="finished videos; by default data_dir/outputs")
    output_roots: tuple[Path, ...] = Field(
        default=(), description="further folders an absolute save path may name"
    )
    input_roots: tuple[Path, ...] = Field(
        default=(), description="folders that image_path, video and the like may lead to"
    )
    allow_image_urls: bool = Field(
        default=False,
        description="whether image_path, video and the like may be http(s) URLs of the internet",
    )
    allowed_hosts: tuple[HostPattern, ...] = Field(
        default=(),
        description="names that requests may be addressed to, as `video.example.com`, `*.example.com` or "
        "`*`, beside addresses and local names; without keys only those unless listed",
    )
    allowed_origins: tuple[Origin, ...] = Field(
        default=(),
        description="other sites whose pages may use the service, as `https://app.example.com` (CORS)",
    )
    ingress_replicas: int = Field(
        default=1,
        ge=1,
        le=64,
        description="processes that answer HTTP; more for thousands of requests a second",
    )
    max_gpus: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="GPUs that Ray's autoscaler may bring the cluster to; by default those that Ray sees at "
        "the start",
    )
    settings_in_file: bool = Field(
        default=True,
        description="whether videos hold their settings, the prompt among them, of a service without keys; "
        "a key has its own",
    )
    metrics_by_key: bool = Field(
        default=False, description="whether metrics of tasks are told apart by API key, under its name"
    )
    access_log: bool = Field(default=False, description="whether each HTTP request gets a log line")
    tasks: TaskSettings = Field(default=TaskSettings(), description="how tasks live and die")
    limits: LimitSettings = Field(default=LimitSettings(), description="what the service takes in")
    webhooks: WebhookSettings = Field(
        default=WebhookSettings(), description="how clients are told of their tasks at their callback_url"
    )
    uploads: UploadSettings | None = Field(
        default=None,
        description="how finished videos are sent to where upload_url says; without it that is refused",
    )
    prompt_enhancer: PromptEnhancerSettings | None = Field(
        default=None, description="the chat model that writes out prompts for requests with enhance_prompt"
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="how log lines are written; in json with the ids of task and trace beside"
    )
    audit: AuditSettings | None = Field(
        default=None, description="the record of who had the service do what, apart from the log"
    )
    tracing: TracingSettings | None = Field(
        default=None, description="the collector that is told what each task went through (OpenTelemetry)"
    )
    keys: tuple[KeySettings, ...] = Field(
        default=(), description="who may use the service; with none, whoever reaches it"
    )
    models: tuple[ModelSettings, ...] = Field(
        min_length=1,
        description="what is served; a task goes to the model it names, or to the first that can do it",
    )

    @model_validator(mode="after")
    def _unique_models(self) -> "AppSettings":
        names = [model.name for model in self.models]
        if len(set(names)) != len(names):
            raise ValueError("models: names must differ from each other")
        replaced = [name for model in self.models for name in model.replaces]
        if len({*names, *replaced}) != len(names) + len(replaced):
            raise ValueError("models: a name in replaces must be of no model that is served, and there once")
        return self

    @model_validator(mode="after")
    def _no_folders_beside_a_bucket(self) -> "AppSettings":
        if self.artifacts_url is not None and self.output_roots:
            raise ValueError("output_roots: are folders, and with artifacts_url videos are in none")
        return self

    @model_validator(mode="after")
    def _unique_keys(self) -> "AppSettings":
        for field in ("name", "sha256"):
            if len({getattr(key, field) for key in self.keys}) != len(self.keys):
                raise ValueError(f"keys: each must have a {field} of its own")
        return self

    @property
    def store_url(self) -> str:
        """The URL of the task store's database."""
        return self.database_url or f"sqlite+aiosqlite:///{self.data_dir / 'tasks.db'}"

    @property
    def outputs(self) -> Path:
        """The output root, whose public name is ``outputs/``."""
        return self.output_root or self.data_dir / "outputs"

    @property
    def inputs(self) -> Path:
        """The folder that holds the images of submitted tasks."""
        return self.data_dir / "inputs"

    @property
    def shares(self) -> Shares:
        """The fair share of each key's owner."""
        return {key.name: Share(key.weight, key.max_running) for key in self.keys}

    @property
    def told_apart(self) -> tuple[str, ...]:
        """Names of the keys that metrics are told apart by; none: they are not."""
        return tuple(key.name for key in self.keys) if self.metrics_by_key else ()

    def with_most(self, replicas: Mapping[str, int]) -> "AppSettings":
        """Return these settings with the most replicas of each model, by name, in place of ``auto``."""
        models = tuple(model.with_most(replicas[model.name]) for model in self.models)
        return self.model_copy(update={"models": models})

    def has_settings_in_file(self, owner: str) -> bool:
        """Return whether an owner's videos hold their settings."""
        of_owner = {key.name: key.settings_in_file for key in self.keys}
        return of_owner.get(owner, False) if owner else self.settings_in_file

    def webhook_secrets(self, owner: str) -> tuple[bytes, ...]:
        """Return the secrets that sign the messages about an owner's tasks, none without any."""
        of_owner = {key.name: key.webhook_secrets for key in self.keys}
        secrets = of_owner.get(owner, ()) if owner else self.webhooks.secrets
        return tuple(secret_bytes(secret.get_secret_value()) for secret in secrets)


def parse_settings(args: object, base: Path) -> AppSettings:
    """Check the ``args`` of the configuration and make every folder absolute, relative ones from ``base``.

    Raises ``SettingsError`` for an unknown key, a bad value, missing weights or a folder that cannot be
    written; its message is one sentence that names the key.
    """
    try:
        settings = AppSettings.model_validate(with_stores_of_the_environment(args))
    except ValidationError as error:
        raise SettingsError(_first_sentence(error)) from None
    settings = _absolute(settings, base)
    for index, model in enumerate(settings.models):
        model.require_files(f"args.models[{index}]")
    for key, folder in (
        ("data_dir", settings.data_dir),
        ("output_root", settings.outputs),
        ("data_dir", settings.inputs),
    ):
        _require_writable(key, folder)
    if settings.audit is not None:
        _require_writable("audit.path", settings.audit.path.parent)
    for index, folder in enumerate(settings.output_roots):
        _require_writable(f"output_roots[{index}]", folder)
    return settings


def _absolute(settings: AppSettings, base: Path) -> AppSettings:
    def absolute(path: Path) -> Path:
        return Path(os.path.abspath(base / path.expanduser()))

    return settings.model_copy(
        update={
            "data_dir": absolute(settings.data_dir),
            "output_root": absolute(settings.outputs),
            "output_roots": tuple(absolute(root) for root in settings.output_roots),
            "input_roots": tuple(absolute(root) for root in settings.input_roots),
            "models": tuple(model.absolute(base) for model in settings.models),
            "audit": settings.audit
            and settings.audit.model_copy(update={"path": absolute(settings.audit.path)}),
            "prompt_enhancer": settings.prompt_enhancer and settings.prompt_enhancer.with_key(base),
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
    """Word the first finding of pydantic as ``args.key: what is allowed``."""
    finding = error.errors(include_url=False)[0]
    loc, section = _place(finding["loc"], finding["type"] == "extra_forbidden")
    key = path(("args", *loc))
    if finding["type"] == "value_error" and isinstance(finding["input"], Mapping | BaseModel):
        # Our own checks look at a whole section and begin their sentence with the key at fault.
        return f"{key}.{reason(finding)}."
    if finding["type"] == "extra_forbidden":
        return f"{key}: {unknown('is not a setting', str(loc[-1]), section.model_fields)}."
    return f"{key}: {reason(finding)}."


def _place(found: Loc, unknown_key: bool) -> tuple[Loc, type[BaseModel]]:
    """Return pydantic's path as it is in the file, and the section that holds its last key.

    Union members ("literal['auto']", "constrained-int") are in pydantic's path alone.
    """
    section: type[BaseModel] = AppSettings
    place: list[int | str] = []
    for part in found[:-1] if unknown_key else found:
        field = section.model_fields.get(str(part))
        if isinstance(part, int) or field is not None:
            place.append(part)
        if field is not None:
            section = model_in(field.annotation) or section
    return (*place, found[-1]) if unknown_key else tuple(place), section
