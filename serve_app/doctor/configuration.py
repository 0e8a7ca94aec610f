"""A configuration on this machine: its keys, its port, its weights, its disk, and the extras it needs."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from models.weights.hub import cached_file
from models.weights_source import HubModel
from serve_app.config import preflight
from serve_app.config.config_lint import load
from serve_app.config.model_settings import ModelSettings
from serve_app.config.section import SettingsError
from serve_app.config.settings import AppSettings, parse_settings
from serve_app.doctor.finding import Finding
from serve_app.doctor.machine import disk
from serve_app.launch.launch_config import LaunchConfig, LaunchError


def of_configuration(path: Path, gpus: int) -> Iterator[Finding]:
    """Yield what is found about a configuration, on a machine with so many GPUs; makes its data folders."""
    try:
        preflight.check(path)
    except SettingsError as error:
        yield Finding("configuration", "problem", f"{path}: {error}", "See wan-serve settings.")
        return
    yield Finding("configuration", "ok", str(path))
    yield from _front(LaunchConfig.read(path, port=None, replicas=None))
    for application in load(path)["applications"]:
        if application["import_path"] == preflight.IMPORT_PATH:
            settings = parse_settings(application.get("args") or {}, Path.cwd())
            yield disk(settings.outputs, settings.limits.min_free_bytes)
            yield from _models(settings, gpus)
            yield from _extras(settings)


def _front(config: LaunchConfig) -> Iterator[Finding]:
    try:
        config.require_free_port()
        yield Finding("port", "ok", f"free for {config.url}")
    except LaunchError as error:
        yield Finding("port", "problem", str(error), "If this service runs already, all is well.")
    if config.warning:
        seen, _, advice = config.warning.removeprefix("Warning: ").partition(". ")
        yield Finding("access", "warning", f"{seen}.", advice)


def _models(settings: AppSettings, gpus: int) -> Iterator[Finding]:
    for model in settings.models:
        yield _weights(model)
        if model.device != "cpu" and model.devices_per_replica > max(gpus, 1):
            yield Finding(
                "GPUs",
                "warning",
                f"{model.name} takes {model.devices_per_replica} for each video, and {gpus} are here",
                "On this machine alone it does not start: see devices_per_replica.",
            )


def _weights(model: ModelSettings) -> Finding:
    wanted = model.weights
    if not isinstance(wanted, HubModel) or cached_file(wanted, "model_index.json") is not None:
        return Finding("weights", "ok", f"{model.name}: {wanted}")
    seen = f"{model.name}: {wanted} is not on this machine"
    if model.offline:
        return Finding("weights", "problem", seen, "Fetch it where the hub can be reached, or name a folder.")
    return Finding("weights", "warning", seen, "Its first start fetches it, which takes a while.")


def _extras(settings: AppSettings) -> Iterator[Finding]:
    wanted = {
        "postgres": ("asyncpg", (settings.database_url or "").startswith("postgresql")),
        "s3": ("boto3", settings.artifacts_url is not None),
        "otel": ("opentelemetry.exporter", settings.tracing is not None),
    }
    for extra, (module, is_wanted) in wanted.items():
        if is_wanted and not _is_there(module):
            yield Finding(
                "packages",
                "problem",
                f"the extra {extra} is not installed",
                f'pip install "wan-serve[{extra}]"',
            )


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
