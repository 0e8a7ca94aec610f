from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serve_app.config.config_lint import lint, load
from serve_app.config.section import SettingsError

Config = dict[str, Any]
POLICY = "ray.serve.autoscaling_policy:default_autoscaling_policy"


def config_with(change: Callable[[Config], None] = lambda config: None) -> Config:
    """Return a configuration that uses every section Ray has, with ``change`` applied."""
    config: Config = {
        "proxy_location": "HeadOnly",
        "http_options": {"host": "127.0.0.1", "port": 8000},
        "grpc_options": {"port": 9000},
        "logging_config": {"encoding": "JSON"},
        "applications": [
            {
                "name": "wan",
                "route_prefix": "/",
                "import_path": "serve_app.app:build",
                "runtime_env": {"env_vars": {"ANY": "1"}, "any_key": 1},
                "args": {"models": [{"anything": "is ours"}]},
                "autoscaling_policy": {
                    "policy_function": "ray.serve.autoscaling_policy:default_autoscaling_policy"
                },
                "deployments": [
                    {"name": "Api", "num_replicas": 2, "user_config": {"any": "key"}},
                    {
                        "name": "model-demo",
                        "autoscaling_config": {"min_replicas": 1, "max_replicas": 4},
                        "ray_actor_options": {"num_cpus": 0.1, "resources": {"any": 1}},
                        "request_router_config": {"max_backoff_s": 0.05},
                        "placement_group_bundles": [{"CPU": 1, "GPU": 1}],
                    },
                ],
            }
        ],
    }
    change(config)
    return config


def model_deployment(config: Config) -> Config:
    deployment: Config = config["applications"][0]["deployments"][1]
    return deployment


def complaint(change: Callable[[Config], None]) -> str:
    with pytest.raises(SettingsError) as caught:
        lint(config_with(change))
    return str(caught.value)


def test_a_configuration_with_every_section_passes() -> None:
    lint(config_with())


@pytest.mark.parametrize(
    ("place", "key", "path", "meant"),
    [
        (lambda c: c, "aplications", "aplications", "applications"),
        (lambda c: c["http_options"], "prot", "http_options.prot", "port"),
        (lambda c: c["grpc_options"], "prt", "grpc_options.prt", "port"),
        (lambda c: c["logging_config"], "log_leve", "logging_config.log_leve", "log_level"),
        (lambda c: c["applications"][0], "importpath", "applications[0].importpath", "import_path"),
        (
            lambda c: c["applications"][0]["autoscaling_policy"],
            "policy_kwarg",
            "applications[0].autoscaling_policy.policy_kwarg",
            "policy_kwargs",
        ),
        (
            model_deployment,
            "max_ongoing_request",
            "applications[0].deployments[1].max_ongoing_request",
            "max_ongoing_requests",
        ),
        (
            lambda c: model_deployment(c)["autoscaling_config"],
            "min_replica",
            "applications[0].deployments[1].autoscaling_config.min_replica",
            "min_replicas",
        ),
        (
            lambda c: model_deployment(c)["ray_actor_options"],
            "num_gpu",
            "applications[0].deployments[1].ray_actor_options.num_gpu",
            "num_gpus",
        ),
        (
            lambda c: model_deployment(c)["request_router_config"],
            "max_backoff",
            "applications[0].deployments[1].request_router_config.max_backoff",
            "max_backoff_s",
        ),
    ],
)
def test_an_unknown_key_is_named_with_its_path_and_the_key_that_was_meant(
    place: Callable[[Config], Config], key: str, path: str, meant: str
) -> None:
    message = complaint(lambda config: place(config).update({key: 1}))
    assert message.startswith(f"{path}: Ray Serve has no such key; did you mean {meant}? allowed here: ")
    assert f" {meant}" in message.partition("allowed here:")[2]
    assert "\n" not in message


def test_a_key_like_no_other_gets_the_allowed_ones_only() -> None:
    message = complaint(lambda config: config["http_options"].update({"zzzzz": 1}))
    assert message.startswith("http_options.zzzzz: Ray Serve has no such key; allowed here: host, ")


@pytest.mark.parametrize(
    ("change", "start"),
    [
        (
            lambda c: c["http_options"].update(port="eight"),
            "http_options.port: input should be a valid int",
        ),
        (lambda c: c.pop("applications"), "applications: is required."),
        (lambda c: c.update(applications="wan"), "applications: input should be a valid list"),
        (lambda c: c["applications"][0].pop("import_path"), "applications[0].import_path: is required."),
        (lambda c: c.update(proxy_location="Everywhere"), "proxy_location: input should be 'Disabled'"),
        (
            lambda c: model_deployment(c).update(num_replicas=0, autoscaling_config=None),
            "applications[0].deployments[1].num_replicas: input should be greater than 0",
        ),
        (
            lambda c: model_deployment(c)["autoscaling_config"].update(min_replicas="two"),
            "applications[0].deployments[1].autoscaling_config.min_replicas: input should be a valid integer",
        ),
        (
            lambda c: model_deployment(c)["autoscaling_config"].update(min_replicas=5),
            "applications[0].deployments[1].autoscaling_config: ",
        ),
        (
            lambda c: model_deployment(c).update(autoscaling_config="yes"),
            "applications[0].deployments[1].autoscaling_config: input should be a valid dictionary",
        ),
        (
            lambda c: c["applications"][0]["autoscaling_policy"].update(policy_function="no_such_module:f"),
            "applications[0].autoscaling_policy: an import path in it does not work: No module named",
        ),
    ],
)
def test_a_wrong_value_is_one_sentence_with_the_path_of_its_key(
    change: Callable[[Config], None], start: str
) -> None:
    message = complaint(change)
    assert message.startswith(start)
    assert message.endswith(".")
    assert "\n" not in message


@pytest.mark.parametrize("config", [None, {}, [], "text", 3])
def test_a_file_without_a_mapping_is_no_configuration(config: object) -> None:
    with pytest.raises(SettingsError, match="must be a mapping with the key applications"):
        lint(config)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be a mapping with the key applications, but it is empty"),
        ("- a list", "must be a mapping with the key applications, but it is a list"),
        ("a: [1, 2", "is not valid YAML: line 1, column 9"),
        ("\tname: x", "is not valid YAML: line 1"),
    ],
)
def test_a_file_without_a_configuration_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^cannot be read: No such file or directory\."):
        load(tmp_path / "nothing.yaml")


def test_a_good_file_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("applications:\n- name: wan\n  import_path: serve_app.app:build\n")
    config = load(path)
    lint(config)
    assert config["applications"][0]["name"] == "wan"
