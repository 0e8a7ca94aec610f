"""Artifacts: every attempt has a file of its own, from which the public name is made; no other is touched."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve_app.errors import FileNotFound, PathForbidden
from serve_app.files import durable
from serve_app.files.local_artifacts import LocalArtifacts
from serve_app.files.output_paths import OutputPaths
from tests.default_place import default_place

ODD_IDS = [".", "..", "...", ".hidden", "-", "a.mp4", "t-a", "x" * 128]


@pytest.fixture
def outputs(tmp_path: Path) -> OutputPaths:
    (tmp_path / "shared").mkdir()
    return OutputPaths(tmp_path / "out", (tmp_path / "shared",))


@pytest.fixture
def artifacts(tmp_path: Path, outputs: OutputPaths) -> LocalArtifacts:
    return LocalArtifacts(outputs, tmp_path / "data")


@pytest.fixture
def other_disk() -> Iterator[Path]:
    """A folder that cannot hold a hard link to one in the temp folder."""
    folder = Path("/dev/shm") / f"wan-serve-test-{os.getpid()}"
    folder.mkdir()
    yield folder
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    folder.rmdir()


def write_attempt(artifacts: LocalArtifacts, task_id: str, attempt: int, data: bytes) -> str:
    artifacts.attempt_path(task_id, attempt).write_bytes(data)
    return artifacts.key(task_id, attempt)


def tree(folder: Path) -> set[str]:
    """Return all files below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def test_free_bytes_are_those_of_the_disks(artifacts: LocalArtifacts) -> None:
    assert artifacts.free_bytes() > 0


def test_attempts_of_a_task_have_files_of_their_own(artifacts: LocalArtifacts, tmp_path: Path) -> None:
    keys = [write_attempt(artifacts, "a", attempt, b"%d" % attempt) for attempt in (1, 2, 10)]
    assert [artifacts.path_of(key).read_bytes() for key in keys] == [b"1", b"2", b"10"]
    assert not any(key.startswith("/") or str(tmp_path) in key for key in keys)


@pytest.mark.parametrize("task_id", ODD_IDS)
def test_odd_task_ids_stay_in_folders_of_their_own(
    artifacts: LocalArtifacts, outputs: OutputPaths, tmp_path: Path, task_id: str
) -> None:
    write_attempt(artifacts, "bystander", 1, b"other")
    before = tree(tmp_path)
    key = write_attempt(artifacts, task_id, 1, b"video")
    artifacts.put_input(task_id, "image.png", b"picture")
    artifacts.publish_alias(key, default_place(outputs, task_id))
    assert set(artifacts.task_ids_with_files()) == {"bystander", task_id}
    assert tree(tmp_path) - before == {
        f"out/.attempts/t-{task_id}/1.mp4",
        f"data/inputs/t-{task_id}/image.png",
        str(default_place(outputs, task_id).path.relative_to(tmp_path)),
    }
    artifacts.delete_task_files(task_id, default_place(outputs, task_id), key)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("task_id", ["", "a/b", "../a", "a\0", "a b", "é", "x" * 129, "a\n"])
def test_a_name_that_is_no_task_id_has_no_folder(artifacts: LocalArtifacts, task_id: str) -> None:
    with pytest.raises(ValueError, match="not a task id"):
        artifacts.attempt_path(task_id, 1)


@pytest.mark.parametrize(
    "key",
    ["", ".", ".attempts", ".attempts/t-a", ".attempts/t-a/2.mp4", ".attempts/../secret", "/etc/passwd",
     "../secret", "videos/a.mp4", ".attempts/\0", ".attempts/" + "n" * 300, ".attempts/link"],
)  # fmt: skip
def test_a_key_leads_to_attempts_only(artifacts: LocalArtifacts, tmp_path: Path, key: str) -> None:
    write_attempt(artifacts, "a", 1, b"video")
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "out" / "secret").write_bytes(b"secret")
    (tmp_path / "out" / ".attempts" / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(FileNotFound) as caught:
        artifacts.path_of(key)
    assert str(tmp_path) not in caught.value.detail


def test_a_public_name_is_the_committed_file_itself(artifacts: LocalArtifacts, outputs: OutputPaths) -> None:
    key, place = write_attempt(artifacts, "a", 2, b"video"), outputs.resolve("x/y/a.mp4")
    artifacts.publish_alias(key, place)
    assert place.path.samefile(artifacts.path_of(key))
    assert place.path.read_bytes() == b"video"


def test_publishing_again_changes_nothing(
    artifacts: LocalArtifacts, outputs: OutputPaths, tmp_path: Path
) -> None:
    key, place = write_attempt(artifacts, "a", 1, b"video"), outputs.resolve("a")
    artifacts.publish_alias(key, place)
    before = tree(tmp_path)
    artifacts.publish_alias(key, place)
    assert tree(tmp_path) == before
    assert place.path.samefile(artifacts.path_of(key))


def test_a_newer_task_takes_the_name_and_the_older_ones_file_stays(
    artifacts: LocalArtifacts, outputs: OutputPaths
) -> None:
    place = outputs.resolve("same.mp4")
    older, newer = write_attempt(artifacts, "a", 1, b"older"), write_attempt(artifacts, "b", 1, b"newer")
    artifacts.publish_alias(older, place)
    artifacts.publish_alias(newer, place)
    assert place.path.read_bytes() == b"newer"
    assert artifacts.path_of(older).read_bytes() == b"older"
    artifacts.delete_task_files("a", place, older)
    assert place.path.read_bytes() == b"newer"
    artifacts.delete_task_files("b", place, newer)
    assert not place.path.exists()


def test_a_link_at_the_name_is_replaced_and_not_followed(
    artifacts: LocalArtifacts, outputs: OutputPaths, tmp_path: Path
) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    place = outputs.resolve("a.mp4")
    place.path.symlink_to(tmp_path / "precious")
    artifacts.publish_alias(write_attempt(artifacts, "a", 1, b"video"), place)
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert not place.path.is_symlink()


def test_a_link_to_the_video_is_not_taken_for_its_name(
    artifacts: LocalArtifacts, outputs: OutputPaths
) -> None:
    key, place = write_attempt(artifacts, "a", 1, b"video"), outputs.resolve("a.mp4")
    place.path.symlink_to(artifacts.path_of(key))
    artifacts.publish_alias(key, place)
    assert not place.path.is_symlink()


def test_a_folder_that_became_a_link_since_the_submit_is_not_followed(
    artifacts: LocalArtifacts, outputs: OutputPaths, tmp_path: Path
) -> None:
    place = outputs.resolve("x/y/a.mp4")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "x").symlink_to(tmp_path / "elsewhere")
    key = write_attempt(artifacts, "a", 1, b"video")
    with pytest.raises(PathForbidden):
        artifacts.publish_alias(key, place)
    artifacts.delete_task_files("a", place, key)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_publishing_a_missing_file_is_an_error(artifacts: LocalArtifacts, outputs: OutputPaths) -> None:
    with pytest.raises(FileNotFound):
        artifacts.publish_alias(artifacts.key("a", 1), outputs.resolve("a"))


def test_a_failed_publication_leaves_nothing(
    artifacts: LocalArtifacts, outputs: OutputPaths, tmp_path: Path
) -> None:
    key, place = write_attempt(artifacts, "a", 1, b"video"), outputs.resolve("a.mp4")
    (place.path / "in the way").mkdir(parents=True)
    before = tree(tmp_path)
    with pytest.raises(OSError, match="directory"):
        artifacts.publish_alias(key, place)
    assert tree(tmp_path) == before


def test_a_name_on_another_disk_is_a_copy_that_is_known_again(tmp_path: Path, other_disk: Path) -> None:
    outputs = OutputPaths(tmp_path / "out", (other_disk,))
    artifacts = LocalArtifacts(outputs, tmp_path / "data")
    place = outputs.resolve(f"{other_disk}/x/a.mp4")
    key = write_attempt(artifacts, "a", 1, b"video")
    os.utime(artifacts.path_of(key), (1000, 1000))  # the copy is made long after the video
    artifacts.publish_alias(key, place)
    inode = place.path.stat().st_ino
    artifacts.publish_alias(key, place)
    assert place.path.read_bytes() == b"video"
    assert place.path.stat().st_ino == inode
    assert tree(other_disk) == {"x/a.mp4"}

    place.path.write_bytes(b"somebody else's")
    artifacts.delete_task_files("a", place, key)
    assert place.path.read_bytes() == b"somebody else's"


def test_a_copy_goes_with_its_task(tmp_path: Path, other_disk: Path) -> None:
    outputs = OutputPaths(tmp_path / "out", (other_disk,))
    artifacts = LocalArtifacts(outputs, tmp_path / "data")
    place, key = outputs.resolve(f"{other_disk}/a.mp4"), write_attempt(artifacts, "a", 1, b"video")
    artifacts.publish_alias(key, place)
    artifacts.delete_task_files("a", place, key)
    assert tree(other_disk) == set()


def test_an_input_comes_back_as_it_was(artifacts: LocalArtifacts, tmp_path: Path) -> None:
    key = artifacts.put_input("a", "image.png", b"first")
    assert artifacts.read_input(key) == b"first"
    assert artifacts.put_input("a", "image.png", b"second") == key
    assert artifacts.read_input(key) == b"second"
    assert tree(tmp_path / "data") == {"inputs/t-a/image.png"}


@pytest.mark.parametrize(
    "key", ["inputs/t-a/none.png", "tasks.db", "../secret", "/etc/passwd", "inputs/../tasks.db"]
)
def test_an_input_key_leads_to_inputs_only(artifacts: LocalArtifacts, tmp_path: Path, key: str) -> None:
    (tmp_path / "data" / "tasks.db").write_bytes(b"rows")
    with pytest.raises(FileNotFound):
        artifacts.read_input(key)


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", ".hidden", "a\0", "n" * 101])
def test_an_input_has_a_plain_name(artifacts: LocalArtifacts, name: str) -> None:
    with pytest.raises(ValueError, match="named"):
        artifacts.put_input("a", name, b"")


def test_deleting_takes_all_of_one_task_and_may_be_done_again(
    artifacts: LocalArtifacts, outputs: OutputPaths, tmp_path: Path
) -> None:
    place = default_place(outputs, "a")
    write_attempt(artifacts, "a", 1, b"lost")
    (artifacts.attempt_path("a", 2).parent / ".left.part").write_bytes(b"half")
    key = write_attempt(artifacts, "a", 2, b"video")
    artifacts.put_input("a", "image.png", b"picture")
    artifacts.publish_alias(key, place)
    for _ in range(2):
        artifacts.delete_task_files("a", place, key)
        assert tree(tmp_path) == set()
    artifacts.delete_task_files("never-seen", None, None)
    assert list(artifacts.task_ids_with_files()) == []


def test_a_name_that_somebody_else_took_stays(artifacts: LocalArtifacts, outputs: OutputPaths) -> None:
    place, key = default_place(outputs, "a"), write_attempt(artifacts, "a", 1, b"video")
    artifacts.publish_alias(key, place)
    place.path.unlink()
    place.path.write_bytes(b"put here by hand")
    artifacts.delete_task_files("a", place, key)
    assert place.path.read_bytes() == b"put here by hand"


def test_files_of_tasks_that_left_only_inputs_are_found(artifacts: LocalArtifacts) -> None:
    artifacts.put_input("a", "image.png", b"picture")
    write_attempt(artifacts, "b", 1, b"video")
    assert sorted(artifacts.task_ids_with_files()) == ["a", "b"]


def test_checkpoints_of_a_task_come_back_and_go_with_it(artifacts: LocalArtifacts, tmp_path: Path) -> None:
    assert artifacts.checkpoints("a") == ()
    artifacts.put_checkpoint("a", "1-0-2.safetensors", b"older")
    artifacts.put_checkpoint("a", "1-0-2.safetensors", b"newer")
    artifacts.put_checkpoint("a", "1-0-3.safetensors", b"")
    artifacts.put_checkpoint("b", "1-0-2.safetensors", b"other")
    assert sorted(artifacts.checkpoints("a")) == ["1-0-2.safetensors", "1-0-3.safetensors"]
    assert artifacts.read_checkpoint("a", "1-0-2.safetensors") == b"newer"
    assert (
        sorted(artifacts.task_ids_with_checkpoints()) == ["a", "b"] == sorted(artifacts.task_ids_with_files())
    )
    for _ in range(2):
        artifacts.delete_checkpoint("a", "1-0-2.safetensors")
    with pytest.raises(FileNotFound):
        artifacts.read_checkpoint("a", "1-0-2.safetensors")
    for _ in range(2):
        artifacts.delete_checkpoints("a")
    artifacts.delete_task_files("b", None, None)
    assert list(artifacts.task_ids_with_checkpoints()) == []
    for name in ("../x", ".hidden", "a/b", ""):
        with pytest.raises(ValueError, match="cannot be named"):
            artifacts.put_checkpoint("a", name, b"")


def test_a_checkpoint_that_cannot_be_written_leaves_the_older_one(
    artifacts: LocalArtifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts.put_checkpoint("a", "1-0-2.safetensors", b"older")

    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="the disk is full"):
            artifacts.put_checkpoint("a", "1-0-2.safetensors", b"newer")
    assert artifacts.read_checkpoint("a", "1-0-2.safetensors") == b"older"
    assert len(list((tmp_path / "data/checkpoints/t-a").iterdir())) == 1


def test_a_data_folder_that_clients_could_download_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="output root"):
        LocalArtifacts(OutputPaths(tmp_path), tmp_path / "data")
    LocalArtifacts(OutputPaths(tmp_path / "data" / "outputs"), tmp_path / "data")


def test_free_bytes_are_those_of_the_disk(artifacts: LocalArtifacts, tmp_path: Path) -> None:
    disk = os.statvfs(tmp_path)
    assert 0 < artifacts.free_bytes() <= disk.f_blocks * disk.f_frsize


def test_a_durable_write_that_fails_leaves_the_older_file_and_nothing_else(tmp_path: Path) -> None:
    durable.write(tmp_path / "a", b"older")
    (tmp_path / "folder" / "x").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        durable.write(tmp_path / "folder", b"newer")
    assert tree(tmp_path) == {"a"}
    assert (tmp_path / "a").read_bytes() == b"older"
