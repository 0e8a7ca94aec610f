"""A configuration either starts the service or stops it with one sentence that names the key."""

from pathlib import Path
from typing import Any

import pytest

from serve_app.settings import SettingsError, parse_settings


def args(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    (tmp_path / "weights").mkdir(exist_ok=True)
    model = {"name": "demo", "variant": "demo", "weights": "weights"}
    return {"data_dir": "data", "models": [model], **changes}


def test_relative_folders_are_taken_from_the_base_and_made(tmp_path: Path) -> None:
    settings = parse_settings(args(tmp_path, input_roots=["images"]), tmp_path)
    assert settings.data_dir == tmp_path / "data"
    assert settings.outputs == tmp_path / "data" / "outputs" and settings.outputs.is_dir()
    assert settings.input_roots == (tmp_path / "images",)
    assert settings.models[0].weights == tmp_path / "weights"
    assert settings.store_url == f"sqlite+aiosqlite:///{tmp_path}/data/tasks.db"


def model_with(**changes: Any) -> dict[str, Any]:
    return {"models": [{"name": "demo", "variant": "demo", "weights": "weights", **changes}]}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"data_folder": "x"}, "args.data_folder: is not a setting; allowed here: data_dir, "),
        (
            {"tasks": {"lease": 3}},
            "args.tasks.lease: is not a setting; allowed here: max_attempts, lease_s, ",
        ),
        (model_with(replica=3), "args.models[0].replica: is not a setting; allowed here: name, variant, "),
        (model_with(variant="wan9"), "args.models[0].variant: 'wan9' is unknown; allowed: demo, "),
        (model_with(replicas=0), "args.models[0].replicas: "),
        (model_with(device="tpu"), "args.models[0].device: input should be 'auto', 'cpu' or 'cuda'."),
        (model_with(name="Demo Model"), "args.models[0].name: string should match pattern "),
        (model_with(weights="nowhere"), "args.models[0].weights: there is no folder "),
        (model_with(engine="os.system"), "args.models[0].engine: string should match pattern "),
        (
            model_with(autoscaling={"max_replica": 3}),
            "args.models[0].autoscaling.max_replica",
        ),
        (
            model_with(autoscaling={"min_replicas": 3, "max_replicas": 2}),
            "args.models[0].autoscaling.min_replicas: must not be above max_replicas.",
        ),
        (
            model_with(autoscaling={"max_replicas": 2, "upscale_delay_s": 0}),
            "args.models[0].autoscaling.upscale_delay_s: input should be greater than 0.",
        ),
        (
            model_with(autoscaling={"max_replicas": 2, "by": "hand"}),
            "args.models[0].autoscaling.by: input should be 'work' or 'requests'.",
        ),
        (
            model_with(autoscaling={"max_replicas": 2}, replicas=2),
            "args.models[0].replicas: leave it out or leave out autoscaling; only one of them can decide.",
        ),
        ({"models": []}, "args.models: "),
        ({"models": model_with()["models"] * 2}, "args.models: names must differ"),
        ({"tasks": {"lease_s": 1.0}}, "args.tasks.lease_s: must be at least three times heartbeat_s."),
        (
            {"tasks": {"max_attempts": 0}},
            "args.tasks.max_attempts: input should be greater than or equal to 1.",
        ),
        ({"limits": {"max_queued": "many"}}, "args.limits.max_queued: "),
        ({"database_url": "mysql://x"}, "args.database_url: string should match pattern "),
    ],
)
def test_a_bad_setting_is_one_sentence_that_names_its_key(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SettingsError) as stopped:
        parse_settings(args(tmp_path, **changes), tmp_path)
    message = str(stopped.value)
    assert message.startswith(sentence)
    assert message.endswith(".") and "\n" not in message


def test_models_are_required(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^args\.models: is required\.$"):
        parse_settings({}, tmp_path)


def test_a_data_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"^args\.data_dir: .*file/data cannot be written \("):
        parse_settings(args(tmp_path, data_dir="file/data"), tmp_path)
