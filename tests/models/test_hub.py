"""A model of the hub is fetched once, at the revision that was asked for, and works offline from then on."""

import logging
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from models.engine import EngineSettings
from models.errors import WeightsError
from models.loading import load_engine
from models.variants import VARIANTS
from models.weights.hub import Snapshot, fetch
from models.weights_source import HubModel

from .hub_server import HubServer

ROOT = Path(__file__).parent.parent.parent
OLD, NEW = "0" * 39 + "1", "0" * 39 + "2"
DEMO = HubModel("org/demo")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; the settings that huggingface_hub read on its import are set anew."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return folder


@pytest.fixture(scope="module")
def published(demo_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the demo model among other files."""
    folder = Path(shutil.copytree(demo_weights, tmp_path_factory.mktemp("hub") / "new"))
    for name in ("README.md", "all_in_one.safetensors", "assets/x.json", "text_encoder/pytorch_model.bin"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"not wanted")
    (folder / "transformer" / "optimizer.pkl").write_bytes(b"\x80\x02}q\0.")
    return folder


@pytest.fixture
def hub(published: Path, demo_weights: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    server = HubServer("org/demo", {"main": NEW, "v1": OLD}, {NEW: published, OLD: demo_weights})
    ask_at(server.url, monkeypatch)
    with server.running():
        yield server


@pytest.fixture
def nobody() -> Iterator[str]:
    """The address of a hub that never answers: its port is held, but not listened on."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        yield url


def ask_at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the hub's address, as ``HF_ENDPOINT`` does before the import of huggingface_hub."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def sentence(caught: pytest.ExceptionInfo[WeightsError]) -> str:
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_hubs_model_is_served(hub: HubServer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="models.weights.hub"):
        load_engine(EngineSettings(VARIANTS["demo"], DEMO))
    assert f"org/demo is commit {NEW}" in caplog.text


def test_only_the_files_of_a_model_are_downloaded(hub: HubServer, demo_weights: Path) -> None:
    snapshot = fetch(DEMO)
    wanted = {str(file.relative_to(demo_weights)) for file in demo_weights.rglob("*") if file.is_file()}
    wanted = {name for name in wanted if "/" in name or name == "model_index.json"}  # not the LoRA beside
    assert hub.files_asked == {f"{NEW}/{name}" for name in wanted}
    there = {str(f.relative_to(snapshot.folder)) for f in snapshot.folder.rglob("*") if f.is_file()}
    assert there == wanted
    assert {Path(name).suffix for name in there} <= {".json", ".txt", ".model", ".safetensors"}


def test_a_transformer_that_is_replaced_is_not_downloaded(hub: HubServer, demo_weights: Path) -> None:
    file = next((demo_weights / "transformer").glob("*.safetensors"))
    load_engine(EngineSettings(VARIANTS["demo"], DEMO, transformer=file))
    asked = {name for name in hub.files_asked if name.startswith(f"{NEW}/transformer/")}
    assert asked == {f"{NEW}/transformer/config.json"}


@pytest.mark.parametrize(("revision", "commit"), [("main", NEW), ("v1", OLD), (OLD, OLD), (NEW, NEW)])
def test_the_revision_is_the_one_asked_for(hub: HubServer, cache: Path, revision: str, commit: str) -> None:
    snapshot = fetch(HubModel("org/demo", revision))
    assert snapshot == Snapshot(cache / "models--org--demo" / "snapshots" / commit, commit)
    assert {name.partition("/")[0] for name in hub.files_asked} == {commit}


def test_a_model_is_fetched_once(hub: HubServer) -> None:
    first = fetch(DEMO)
    asked = hub.files_asked
    hub.asked.clear()
    assert fetch(DEMO) == first
    assert asked and not hub.files_asked


def test_a_branch_that_has_moved_is_fetched_anew(hub: HubServer) -> None:
    assert fetch(DEMO).commit == NEW
    hub.revisions["main"] = OLD
    assert fetch(DEMO).commit == OLD
    assert fetch(HubModel("org/demo", NEW)).commit == NEW


def test_offline_asks_nobody(hub: HubServer) -> None:
    snapshot = fetch(DEMO)
    hub.asked.clear()
    assert fetch(DEMO, offline=True) == snapshot
    assert fetch(HubModel("org/demo", NEW), offline=True) == snapshot
    load_engine(EngineSettings(VARIANTS["demo"], DEMO, offline=True))
    assert hub.asked == []


def test_the_environment_turns_the_hub_off(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = fetch(DEMO)
    hub.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch(DEMO) == snapshot
    with pytest.raises(WeightsError) as caught:
        fetch(HubModel("org/demo", "v1"))
    assert sentence(caught) == "org/demo@v1 is not in the cache, and nothing is fetched offline."
    assert hub.asked == []


@pytest.mark.slow
def test_a_model_made_offline_from_the_command_line(hub: HubServer, cache: Path, tmp_path: Path) -> None:
    fetch(DEMO)
    hub.asked.clear()
    out = tmp_path / "out.mp4"
    script = [sys.executable, "-m", "offline.cli"]
    small = ["--prompt", "x", "--size", "64x32", "--frames", "5", "--steps", "1"]
    done = subprocess.run(
        [*script, "--weights", "org/demo", "--variant", "demo", *small, "--out", str(out), "--offline"],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_CACHE": str(cache), "HF_ENDPOINT": hub.url},
    )
    assert done.returncode == 0, done.stderr
    assert out.stat().st_size > 0
    assert hub.asked == []


def test_without_an_answer_the_cache_serves(
    hub: HubServer, nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_at(nobody, monkeypatch)
    with pytest.raises(WeightsError) as caught:
        fetch(DEMO)
    assert sentence(caught) == f"org/demo is not in the cache, and {nobody} does not answer."
    ask_at(hub.url, monkeypatch)
    snapshot = fetch(DEMO)
    ask_at(nobody, monkeypatch)
    assert fetch(DEMO) == snapshot


def test_an_empty_cache_offline_is_one_sentence(hub: HubServer) -> None:
    with pytest.raises(WeightsError) as caught:
        load_engine(EngineSettings(VARIANTS["demo"], HubModel("org/demo", OLD), offline=True))
    assert sentence(caught) == f"org/demo@{OLD} is not in the cache, and nothing is fetched offline."


def test_a_cache_that_is_not_whole_is_one_sentence(hub: HubServer) -> None:
    snapshot = fetch(DEMO)
    (snapshot.folder / "vae" / "config.json").unlink()
    with pytest.raises(WeightsError) as caught:
        fetch(DEMO, offline=True)
    assert sentence(caught) == "Not all files of org/demo are in the cache, and nothing is fetched offline."
    assert fetch(DEMO) == snapshot
    assert (snapshot.folder / "vae" / "config.json").exists()


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (HubModel("org/other"), "There is no folder org/other, and no such model on the hub for this user"),
        (HubModel("org/demo", "v9"), "The hub's org/demo has no revision v9."),
        (HubModel("org/demo", "f" * 40), f"The hub's org/demo has no revision {'f' * 40}."),
        (HubModel("org/de..mo"), "org/de..mo could not be fetched from the hub: "),
    ],
)
def test_a_model_that_the_hub_lacks_is_one_sentence(hub: HubServer, model: HubModel, said: str) -> None:
    with pytest.raises(WeightsError) as caught:
        fetch(model)
    assert sentence(caught).startswith(said)
    assert not hub.files_asked


def test_a_fault_of_the_hub_is_one_sentence(hub: HubServer, tmp_path: Path) -> None:
    hub.commits[NEW] = tmp_path / "empty"
    hub.commits[NEW].mkdir()
    with pytest.raises(WeightsError) as caught:
        load_engine(EngineSettings(VARIANTS["demo"], DEMO))
    sentence(caught)
