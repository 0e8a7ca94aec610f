"""The image, the compose file and the systemd unit: what no linter of theirs knows of this project."""

import re
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.config.settings import TaskSettings
from tests.deploy.manifests import ROOT
from tests.prometheus import promtool

DEPLOY = ROOT / "deploy"
LINES = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
STAGES = {"cpu", "cuda"}
MARGIN_S = 10
"""For what follows the drain, as docs/operations/stopping.md says."""


def stages() -> dict[str, list[str]]:
    """Return each stage's instructions, those of the stage that it begins from first."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in LINES:
        if begun := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            parent, name = begun.groups()
            found[name] = list(found.get(parent, []))
        elif name and line and not line.startswith("#"):
            found[name].append(line)
    return found


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_an_image_ends_as_a_user_that_is_not_root_and_has_its_own_packages(stage: str) -> None:
    instructions = stages()[stage]
    users = [line for line in instructions if line.startswith("USER ")]
    assert users[-1] == "USER 1000:1000", "as the pods' securityContext says"
    assert instructions[-1] == f"COPY --from=packages-{stage} /opt/venv /opt/venv"
    assert "WORKDIR /opt/wan-serve" in instructions


def test_what_is_copied_is_there_is_sent_to_the_builder_and_is_all_that_the_wheel_has() -> None:
    copied = [line.split()[1:-1] for line in LINES if line.startswith("COPY ") and "--from" not in line]
    sources = {source for each in copied for source in each}
    sent = set(re.findall(r"^!(.+)$", (DEPLOY / "Dockerfile.dockerignore").read_text(), re.MULTILINE))
    assert sources == sent
    assert all((ROOT / source).exists() for source in sources)
    assert {source for source in sources if (ROOT / source).is_dir()} == {
        *("models", "offline", "serve_app", "wan_serve")
    }


def test_the_tags_that_the_dockerfile_and_the_compose_files_name_are_those_of_the_manifests() -> None:
    manifest = (DEPLOY / "kuberay/base/rayservice.yaml").read_text()
    named = set(re.findall(r"wan-serve-c\w+:[\d.]+", manifest))
    files = [DEPLOY / "Dockerfile", *DEPLOY.glob("compose*.yaml")]
    assert {tag for file in files for tag in re.findall(r"wan-serve-c\w+:[\d.]+", file.read_text())} == named


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return found


def test_the_service_of_the_compose_file_drains_before_it_is_killed_and_is_open_to_its_machine(
    compose: dict[str, Any],
) -> None:
    service = compose["services"]["wan-serve"]
    assert int(service["stop_grace_period"].removesuffix("s")) >= TaskSettings().drain_s + MARGIN_S
    assert all(
        port.startswith("127.0.0.1:") for each in compose["services"].values() for port in each["ports"]
    )
    assert service["build"]["target"] in STAGES
    assert yaml.safe_load((DEPLOY / "compose.cuda.yaml").read_text())["services"]["wan-serve"]["build"] == {
        "target": "cuda"
    }


def test_each_volume_and_file_that_the_compose_file_mounts_is_there(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for source, *_ in (mount.split(":") for mount in service["volumes"]):
            assert source in compose["volumes"] or (DEPLOY / source).is_file()


def test_prometheus_finds_rays_file_where_the_service_writes_it(compose: dict[str, Any]) -> None:
    assert not promtool("check", "config", DEPLOY / "prometheus.yml")
    (job,) = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]
    ((file,),) = (each["files"] for each in job["file_sd_configs"])
    assert Path(file).is_relative_to("/tmp")
    for name in ("wan-serve", "prometheus"):
        mounts = dict(mount.split(":")[:2] for mount in compose["services"][name]["volumes"])
        assert mounts["tmp"] == "/tmp"


def test_grafana_finds_prometheus_and_the_dashboard_where_it_is_told(compose: dict[str, Any]) -> None:
    mounts = dict(mount.split(":")[:2] for mount in compose["services"]["grafana"]["volumes"])
    (source,) = yaml.safe_load((DEPLOY / "grafana/datasource.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090" and "prometheus" in compose["services"]
    (provider,) = yaml.safe_load((DEPLOY / "grafana/provider.yaml").read_text())["providers"]
    assert Path(mounts["./grafana/wan-serve.json"]).parent == Path(provider["options"]["path"])


def test_systemd_tells_the_launcher_alone_to_stop_and_waits_for_its_drain() -> None:
    unit = ConfigParser()
    unit.optionxform = str  # type: ignore[method-assign, assignment]
    unit.read(DEPLOY / "wan-serve.service")
    service = unit["Service"]
    assert service["KillMode"] == "mixed", "a SIGTERM to all would end Ray's processes before the drain"
    assert int(service["TimeoutStopSec"]) >= TaskSettings().drain_s + MARGIN_S
    program = Path(service["ExecStart"].split()[0]).relative_to(service["WorkingDirectory"])
    assert (ROOT / program).is_file()
