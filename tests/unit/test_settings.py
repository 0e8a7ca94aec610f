"""A configuration either starts the service or stops it with one sentence that names the key."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from models.weights_source import HubModel
from serve_app.api.http.auth import Keyring
from serve_app.config.model_settings import ModelSettings
from serve_app.config.section import SettingsError
from serve_app.config.settings import parse_settings


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


def parsed_model(tmp_path: Path, **changes: Any) -> ModelSettings:
    settings = parse_settings(args(tmp_path, **model_with(**changes)), tmp_path)
    return settings.models[0]


@pytest.mark.parametrize(
    ("text", "model"), [("org/name", HubModel("org/name")), ("org/name@v1", HubModel("org/name", "v1"))]
)
def test_weights_may_be_a_hubs_model(tmp_path: Path, text: str, model: HubModel) -> None:
    assert parsed_model(tmp_path, weights=text, offline=True).weights == model


def test_a_folder_of_the_base_is_not_looked_for_on_a_hub(tmp_path: Path) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert parsed_model(tmp_path, weights="org/name").weights == tmp_path / "org" / "name"


def test_a_transformers_files_are_taken_from_the_base(tmp_path: Path) -> None:
    (tmp_path / "high.safetensors").touch()
    (tmp_path / "low").mkdir()
    files = {"transformer": "high.safetensors", "transformer_2": "low"}
    model = parsed_model(tmp_path, variant="wan2.2-t2v-a14b", **files)
    assert (model.transformer, model.transformer_2) == (tmp_path / "high.safetensors", tmp_path / "low")
    assert parsed_model(tmp_path).transformer is None


def model_with(**changes: Any) -> dict[str, Any]:
    return {"models": [{"name": "demo", "variant": "demo", "weights": "weights", **changes}]}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"data_folder": "x"},
            "args.data_folder: is not a setting; did you mean data_dir? allowed here: data_dir, ",
        ),
        ({"zzz": "x"}, "args.zzz: is not a setting; allowed here: data_dir, "),
        (
            {"tasks": {"lease": 3}},
            "args.tasks.lease: is not a setting; did you mean lease_s? allowed here: max_attempts, lease_s, ",
        ),
        (
            model_with(replica=3),
            "args.models[0].replica: is not a setting; did you mean replicas? allowed here: name, variant, ",
        ),
        (
            model_with(options={"cache_treshold": 0.1}),
            "args.models[0].options.cache_treshold: is not a setting; did you mean cache_threshold? "
            "allowed here: attention, sparsity, ",
        ),
        (
            model_with(options={"attention": "fast"}),
            "args.models[0].options.attention: must be one of auto, sdpa, ",
        ),
        (model_with(options={"compile": 1}), "args.models[0].options.compile: must be true or false, not 1."),
        (model_with(options=[]), "args.models[0].options: input should be a valid dictionary."),
        (
            model_with(fused_loras=[{"file": "x", "strenght": 1}]),
            "args.models[0].fused_loras[0].strenght: is not a setting; did you mean strength? "
            "allowed here: file, strength, expert.",
        ),
        (model_with(variant="wan9"), "args.models[0].variant: 'wan9' is unknown; allowed: demo, "),
        (model_with(replicas=0), "args.models[0].replicas: "),
        (model_with(device="tpu"), "args.models[0].device: input should be 'auto', 'cpu' or 'cuda'."),
        (model_with(name="Demo Model"), "args.models[0].name: string should match pattern "),
        (model_with(devices_per_replica=65), "args.models[0].devices_per_replica: input should be less than"),
        (
            model_with(devices_per_replica=9),
            "args.models[0].devices_per_replica: is more than eight on each node",
        ),
        (
            model_with(devices_per_replica=9, nodes_per_replica=2),
            "args.models[0].parallel: 9 devices cannot be on 2 nodes, each with as many.",
        ),
        (
            model_with(devices_per_replica=4, parallel={"cfg": 2, "ring": 1, "ulysses": 1}),
            "args.models[0].parallel: cfg 2 x ring 1 x ulysses 1 needs 2 devices, not 4.",
        ),
        (
            model_with(devices_per_replica=8, parallel={"ulysses": 8}),
            "args.models[0].parallel: ulysses 8 does not divide the model's 4 heads; possible are 1, 2, 4.",
        ),
        (
            model_with(variant="demo-distill", devices_per_replica=2, parallel={"cfg": 2}),
            "args.models[0].parallel: cfg must be 1 for a model without guidance",
        ),
        (
            model_with(parallel={"rings": 2}),
            "args.models[0].parallel.rings: is not a setting; did you mean ring? "
            "allowed here: cfg, ring, ulysses.",
        ),
        (model_with(weights="nowhere"), "args.models[0].weights: there is no folder "),
        (model_with(weights="./org/name"), "args.models[0].weights: there is no folder "),
        (model_with(weights=5), "args.models[0].weights: input is not a valid path "),
        (model_with(transformer="nowhere"), "args.models[0].transformer: there is no file or folder "),
        (
            model_with(transformer_2="nowhere"),
            "args.models[0].transformer_2: demo has one transformer.",
        ),
        (
            model_with(variant="wan2.2-t2v-a14b", transformer_2="nowhere"),
            "args.models[0].transformer_2: there is no file or folder ",
        ),
        (model_with(offline="maybe"), "args.models[0].offline: input should be a valid boolean"),
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
        (model_with(replaces=["demo"]), "args.models: a name in replaces must be of no model that is served"),
        ({"tasks": {"lease_s": 1.0}}, "args.tasks.lease_s: must be at least three times heartbeat_s."),
        (
            {"tasks": {"removed_after_s": 179.0}},
            "args.tasks.removed_after_s: must be at least three times janitor_period_s.",
        ),
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


def test_the_options_of_another_engine_are_left_to_its_own_checks(tmp_path: Path) -> None:
    model = parsed_model(tmp_path, engine="an.engine:factory", options={"anything": [1]})
    assert model.options == {"anything": [1]}


def key_with(**changes: Any) -> dict[str, Any]:
    return {"keys": [{"name": "alice", "sha256": "0" * 64, **changes}]}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (key_with(key="secret"), "args.keys[0].key: is not a setting; allowed here: name, sha256, "),
        (key_with(sha256="the key itself"), "args.keys[0].sha256: string should match pattern "),
        (key_with(name="Alice"), "args.keys[0].name: string should match pattern "),
        (key_with(name="../bob"), "args.keys[0].name: string should match pattern "),
        (key_with(name="videos"), "args.keys[0].name: must not be videos, the folder of videos"),
        (key_with(max_queued=0), "args.keys[0].max_queued: "),
        (key_with(weight=0), "args.keys[0].weight: "),
        (
            key_with(webhook_secrets=["whsec_the key itself"]),
            "args.keys[0].webhook_secrets[0]: must be whsec_ and base64.",
        ),
        ({"keys": key_with()["keys"] * 2}, "args.keys: each must have a name of its own."),
        (
            {"keys": key_with()["keys"] + key_with(name="bob")["keys"]},
            "args.keys: each must have a sha256 of its own.",
        ),
    ],
)
def test_a_bad_key_is_one_sentence_that_does_not_show_it(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SettingsError) as stopped:
        parse_settings(args(tmp_path, **changes), tmp_path)
    message = str(stopped.value)
    assert message.startswith(sentence) and message.endswith(".")
    assert "the key itself" not in message and "\n" not in message


def test_a_made_key_is_one_that_the_settings_take(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "scripts" / "make_key"
    made = [
        subprocess.run([sys.executable, script, "alice"], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert made[0] != made[1]
    for output in made:
        (configured,) = yaml.safe_load(output.partition("configuration:")[2])
        settings = parse_settings(args(tmp_path, keys=[configured]), tmp_path)
        caller = Keyring(settings.keys).caller(output.partition("holder: ")[2].split()[0].encode())
        assert caller is not None and caller.name == "alice" and not caller.is_admin


def test_models_are_required(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^args\.models: is required\.$"):
        parse_settings({}, tmp_path)


def test_a_data_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"^args\.data_dir: .*file/data cannot be written \("):
        parse_settings(args(tmp_path, data_dir="file/data"), tmp_path)


def test_addresses_of_stores_in_the_environment_take_the_place_of_those_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAN_SERVE_DATABASE_URL", "postgresql+asyncpg://a:secret@db/wan")
    monkeypatch.setenv("WAN_SERVE_ARTIFACTS_URL", "s3://videos/wan")
    monkeypatch.setenv("WAN_SERVE_S3_ENDPOINT_URL", "http://s3:9000")
    found = parse_settings(args(tmp_path, artifacts_url="s3://other", s3={"region": "x"}), tmp_path)
    assert found.store_url == "postgresql+asyncpg://a:secret@db/wan"
    assert (found.artifacts_url, found.s3.endpoint_url, found.s3.region) == (
        "s3://videos/wan", "http://s3:9000", "x",
    )  # fmt: skip
    assert found.s3.addressing_style == "path"
    monkeypatch.setenv("WAN_SERVE_DATABASE_URL", "mysql://a")
    with pytest.raises(SettingsError, match=r"args\.database_url"):
        parse_settings(args(tmp_path), tmp_path)
