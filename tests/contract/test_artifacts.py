"""Artifacts: what holds of them wherever they are kept, in folders or in a bucket."""

import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from serve_app.config.settings import AppSettings
from serve_app.errors import FileNotFound, PathForbidden
from serve_app.files.artifact_stores import open_artifacts
from serve_app.files.artifacts import Artifacts
from serve_app.files.local_artifacts import LocalArtifacts
from serve_app.files.output_paths import OutputPaths, SavePath
from serve_app.tasks.video_output import VideoFormat
from testbed.s3_server import S3Server
from tests.default_place import default_place

VIDEO = bytes(range(256)) * 5000
MODELS = ({"name": "demo", "variant": "demo", "weights": "/"},)


@dataclass(frozen=True)
class Kept:
    """Artifacts of one node, and how another node that keeps them at the same place is made."""

    artifacts: Artifacts
    another: Callable[[], Artifacts]
    outputs: OutputPaths


@pytest.fixture(params=["folders", pytest.param("bucket", marks=pytest.mark.s3)])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Kept:
    where: dict[str, Any] = {}
    if request.param == "bucket":
        server: S3Server = request.getfixturevalue("s3_server")
        where = server.new_bucket()

    def node(name: str) -> AppSettings:
        # Nodes share folders, or a bucket and nothing else.
        data = tmp_path / ("data" if not where else name)
        fields = {"data_dir": data, "output_root": tmp_path / "out", "models": MODELS, **where}
        return AppSettings.model_validate(fields)

    outputs = OutputPaths(tmp_path / "out")
    return Kept(open_artifacts(node("one")), lambda: open_artifacts(node("other")), outputs)


@pytest.fixture
def artifacts(kept: Kept) -> Artifacts:
    return kept.artifacts


def write(artifacts: Artifacts, task_id: str, attempt: int, data: bytes) -> str:
    artifacts.attempt_path(task_id, attempt).write_bytes(data)
    artifacts.store_attempt(task_id, attempt)
    return artifacts.key(task_id, attempt)


def content(artifacts: Artifacts, key: str) -> bytes:
    found = artifacts.find(key)
    return b"".join(found.chunks(0, found.size))


def published(artifacts: Artifacts, place: SavePath) -> bytes | None:
    """Return what lies at a public name; None if there is nothing."""
    if isinstance(artifacts, LocalArtifacts):
        return place.path.read_bytes() if place.path.exists() else None
    from serve_app.files.s3_artifacts import S3Artifacts

    assert isinstance(artifacts, S3Artifacts)
    try:
        return artifacts.bucket.read(f"outputs/{place.relative}")
    except FileNotFound:
        return None


def test_an_attempts_file_is_seen_from_another_node_once_it_is_stored(kept: Kept) -> None:
    other = kept.another()
    key = write(kept.artifacts, "a", 2, VIDEO)
    found = other.find(key)
    assert (found.name, found.size, content(other, key)) == ("2.mp4", len(VIDEO), VIDEO)
    assert b"".join(found.chunks(300_000, 900_001)) == VIDEO[300_000:900_001]
    assert other.path_of(key).read_bytes() == VIDEO
    assert other.path_of(key).suffix == ".mp4"
    assert found.tag == kept.artifacts.find(key).tag and abs(found.modified_at - time.time()) < 60


def test_attempts_have_files_of_their_own_in_every_form(artifacts: Artifacts) -> None:
    keys = [write(artifacts, "a", attempt, b"%d" % attempt) for attempt in (1, 2, 10)]
    artifacts.attempt_path("a", 3, VideoFormat.PNG_ZIP).write_bytes(b"zip")
    artifacts.store_attempt("a", 3, VideoFormat.PNG_ZIP)
    keys.append(artifacts.key("a", 3, VideoFormat.PNG_ZIP))
    assert [content(artifacts, key) for key in keys] == [b"1", b"2", b"10", b"zip"]


def test_an_attempt_that_wrote_nothing_cannot_be_stored(artifacts: Artifacts) -> None:
    artifacts.attempt_path("a", 1)
    with pytest.raises(FileNotFound):
        artifacts.store_attempt("a", 1)
    with pytest.raises(FileNotFound):
        artifacts.find(artifacts.key("a", 1))
    with pytest.raises(FileNotFound):
        artifacts.path_of(artifacts.key("a", 1))


KEYS = (
    "", ".attempts", ".attempts/t-a", ".attempts/t-a/9.mp4", ".attempts/../inputs/t-a/image.png",
    "/etc/passwd", "../x", "inputs/t-a/image.png", "outputs/videos/a.mp4", ".attempts/t-a/2.mp4/../1.mp4",
)  # fmt: skip


def test_a_key_leads_to_attempts_alone_or_to_inputs_alone(artifacts: Artifacts, kept: Kept) -> None:
    artifacts.publish_alias(write(artifacts, "a", 1, b"video"), default_place(kept.outputs, "a"))
    artifacts.put_input("a", "image.png", b"picture")
    for key in KEYS:
        for ask in (artifacts.find, artifacts.path_of):
            with pytest.raises(FileNotFound):
                ask(key)
        if not key.startswith("inputs"):
            with pytest.raises(FileNotFound):
                artifacts.read_input(key)


def test_a_public_name_is_given_and_taken_with_the_task_alone(artifacts: Artifacts, kept: Kept) -> None:
    place = kept.outputs.resolve("x/y/a.mp4")
    older, newer = write(artifacts, "a", 1, b"older"), write(artifacts, "b", 1, b"newer")
    for _ in range(2):
        artifacts.publish_alias(older, place)
        assert published(artifacts, place) == b"older"
    artifacts.publish_alias(newer, place)
    assert published(artifacts, place) == b"newer" and content(artifacts, older) == b"older"
    artifacts.delete_task_files("a", place, older)
    assert published(artifacts, place) == b"newer"
    artifacts.delete_task_files("b", place, newer)
    assert published(artifacts, place) is None


def test_nothing_is_published_of_an_attempt_that_was_not_stored(artifacts: Artifacts, kept: Kept) -> None:
    artifacts.attempt_path("a", 1)
    with pytest.raises(FileNotFound):
        artifacts.publish_alias(artifacts.key("a", 1), default_place(kept.outputs, "a"))
    assert published(artifacts, default_place(kept.outputs, "a")) is None


def test_a_name_outside_of_the_outputs_is_forbidden(artifacts: Artifacts, tmp_path: Path) -> None:
    key = write(artifacts, "a", 1, b"video")
    if isinstance(artifacts, LocalArtifacts):
        (tmp_path / "out" / "link").symlink_to(tmp_path)
        place = SavePath(tmp_path / "out", PurePosixPath("link/elsewhere/a.mp4"))
    else:
        place = SavePath(tmp_path, PurePosixPath("a.mp4"))
    with pytest.raises(PathForbidden):
        artifacts.publish_alias(key, place)
    artifacts.delete_task_files("a", place, key)
    assert list(artifacts.task_ids_with_files()) == []


def test_inputs_come_back_on_another_node(kept: Kept) -> None:
    other = kept.another()
    key = kept.artifacts.put_input("a", "image.png", b"first")
    assert other.read_input(key) == b"first"
    assert kept.artifacts.put_input("a", "image.png", b"second") == key
    assert other.read_input(key) == b"second"
    made = kept.artifacts.make_input("a", "video.mkv", lambda path: void(path.write_bytes(VIDEO)))
    assert other.input_path(made).read_bytes() == VIDEO and other.input_path(made).suffix == ".mkv"
    with pytest.raises(ZeroDivisionError):
        kept.artifacts.make_input("b", "video.mkv", lambda path: void(1 / 0))
    with pytest.raises(FileNotFound):
        other.read_input("inputs/t-b/video.mkv")


def void(_: object) -> None: ...


def test_inputs_and_tasks_have_plain_names(artifacts: Artifacts) -> None:
    for name in ("", ".", "..", "../x", "a/b", ".hidden", "a\0", "n" * 101):
        with pytest.raises(ValueError, match="named"):
            artifacts.put_input("a", name, b"")
    for task_id in ("", "a/b", "../a", "a\0", "a b", "é", "x" * 129, "a\n"):
        with pytest.raises(ValueError, match="not a task id"):
            artifacts.put_input(task_id, "image.png", b"")


def test_an_earlier_video_stays_when_its_task_goes(kept: Kept) -> None:
    key = write(kept.artifacts, "a", 1, VIDEO)
    copy = kept.artifacts.link_video("b", key)
    kept.artifacts.delete_task_files("a", None, key)
    other = kept.another()
    assert other.input_path(copy).read_bytes() == VIDEO
    with pytest.raises(FileNotFound):
        kept.artifacts.link_video("c", key)


def test_the_newest_preview_is_read_on_another_node(kept: Kept) -> None:
    other = kept.another()
    with pytest.raises(FileNotFound):
        other.read_preview("a", 1, "still")
    for number in (b"1", b"2"):
        kept.artifacts.put_preview("a", 1, still=number, strip=number * 2)
        assert other.read_preview("a", 1, "still") == number
        assert other.read_preview("a", 1, "strip") == number * 2


def test_a_picture_of_a_video_is_kept_with_it(kept: Kept) -> None:
    key = write(kept.artifacts, "a", 1, VIDEO)
    still = key.replace(".mp4", ".last_frame.png")
    kept.artifacts.put_still(still, b"png")
    assert content(kept.another(), still) == b"png"
    with pytest.raises(FileNotFound):
        kept.artifacts.put_still("inputs/t-a/image.png", b"png")
    kept.artifacts.delete_task_files("a", None, None)
    with pytest.raises(FileNotFound):
        kept.another().find(still)


def test_checkpoints_are_read_on_another_node_and_go_alone_or_all(kept: Kept) -> None:
    other = kept.another()
    for name in ("2-10", "2-20"):
        kept.artifacts.put_checkpoint("a", name, name.encode())
    kept.artifacts.put_checkpoint("b", "1-1", b"other")
    assert sorted(other.checkpoints("a")) == ["2-10", "2-20"] and list(other.checkpoints("c")) == []
    assert other.read_checkpoint("a", "2-20") == b"2-20"
    assert sorted(other.task_ids_with_checkpoints()) == ["a", "b"]
    for _ in range(2):
        other.delete_checkpoint("a", "2-10")
        assert list(kept.artifacts.checkpoints("a")) == ["2-20"]
    with pytest.raises(FileNotFound):
        kept.artifacts.read_checkpoint("a", "2-10")
    with pytest.raises(ValueError, match="named"):
        kept.artifacts.put_checkpoint("a", "../x", b"")
    for _ in range(2):
        other.delete_checkpoints("a")
        assert list(kept.artifacts.checkpoints("a")) == [] and other.read_checkpoint("b", "1-1") == b"other"


def test_all_of_a_task_goes_and_of_no_other(artifacts: Artifacts) -> None:
    for task_id in ("a", "a.b", "..", "ab"):
        for attempt in (1, 2):  # the first of them died
            write(artifacts, task_id, attempt, b"video")
        artifacts.put_input(task_id, "image.png", b"picture")
        artifacts.put_preview(task_id, 1, still=b"1", strip=b"2")
    artifacts.put_input("inputs-only", "image.png", b"picture")
    for _ in range(2):
        artifacts.delete_task_files("a", None, None)
        assert sorted(artifacts.task_ids_with_files()) == ["..", "a.b", "ab", "inputs-only"]
    with pytest.raises(FileNotFound):
        artifacts.find(artifacts.key("a", 1))
    assert content(artifacts, artifacts.key("a.b", 1)) == b"video"
    artifacts.delete_task_files("never-seen", None, None)


def test_there_is_room(artifacts: Artifacts) -> None:
    assert artifacts.free_bytes() > 0


@pytest.mark.s3
def test_a_link_is_for_the_one_object_and_goes_where_clients_reach_the_bucket(
    s3_server: S3Server, tmp_path: Path
) -> None:
    where = s3_server.new_bucket()
    public = f"http://localhost:{s3_server.port}"
    where["s3"] |= {"redirect_downloads": True, "public_endpoint_url": public}
    fields = {"data_dir": tmp_path, "models": MODELS, **where}
    artifacts = open_artifacts(AppSettings.model_validate(fields))
    key = write(artifacts, "a", 1, VIDEO)
    link = artifacts.find(key).link(disposition='inline; filename="a.mp4"', media_type="video/mp4")
    assert link is not None and link.startswith(public)
    with urllib.request.urlopen(link) as answer:
        assert answer.read() == VIDEO
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(link.replace("1.mp4?", "2.mp4?"))
