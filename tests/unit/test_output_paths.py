"""Save paths: names keep their shape, and none leads out of the folders meant for videos."""

import random
from pathlib import Path

import pytest

from serve_app.errors import InvalidField, PathForbidden, ServiceError
from serve_app.files.output_paths import OutputPaths
from tests.default_place import default_place


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "somewhere"
    root.mkdir()
    return root


@pytest.fixture
def extra(tmp_path: Path) -> Path:
    extra = tmp_path / "shared"
    extra.mkdir()
    return extra


@pytest.fixture
def outputs(root: Path, extra: Path) -> OutputPaths:
    return OutputPaths(root, (extra,))


@pytest.mark.parametrize(
    ("name", "relative"),
    [
        ("a.mp4", "a.mp4"),
        ("x/y/a.mp4", "x/y/a.mp4"),
        ("./x//y/./a.mp4", "x/y/a.mp4"),
        ("outputs/a.mp4", "a.mp4"),
        ("./outputs/x/a.mp4", "x/a.mp4"),
        ("outputs/outputs/a.mp4", "outputs/a.mp4"),
        ("outputs", "outputs.mp4"),
        ("a", "a.mp4"),
        ("a.avi", "a.avi.mp4"),
        ("a.MP4", "a.MP4"),
        ("视频 1/猫.mp4", "视频 1/猫.mp4"),
        ("a..b.mp4", "a..b.mp4"),
        ("n" * 251, "n" * 251 + ".mp4"),
        ("{root}/x/a.mp4", "x/a.mp4"),
        ("{root}//./a", "a.mp4"),
    ],
)
def test_a_name_keeps_its_shape_below_the_output_root(
    outputs: OutputPaths, root: Path, name: str, relative: str
) -> None:
    place = outputs.resolve(name.format(root=root))
    assert place.path == root / relative
    assert outputs.public_path(place) == f"outputs/{relative}"


def test_an_absolute_path_below_an_extra_root_is_taken(outputs: OutputPaths, extra: Path) -> None:
    place = outputs.resolve(f"{extra}/x/a.mp4")
    assert place.path == extra / "x" / "a.mp4"
    assert outputs.public_path(place) == f"{extra}/x/a.mp4"


@pytest.mark.parametrize(
    "name",
    ["a", "outputs/outputs/a", "x/./outputs/a.mp4", "{root}/outputs/b", "{extra}/c", "{extra}/outputs/c"],
)
def test_a_public_path_names_the_same_place_again(
    outputs: OutputPaths, root: Path, extra: Path, name: str
) -> None:
    place = outputs.resolve(name.format(root=root, extra=extra))
    assert outputs.resolve(outputs.public_path(place)) == place


@pytest.mark.parametrize(
    "name",
    [
        "../a.mp4",
        "x/../../a.mp4",
        "x/../a.mp4",
        "..",
        "outputs/../../a.mp4",
        "/etc/cron.d/a.mp4",
        "/a.mp4",
        "{root}/../a.mp4",
        "{root}2/a.mp4",
        ".attempts/t-a/1.mp4",
        "outputs/.attempts/t-a/1.mp4",
        "{root}/.attempts/t-a/1.mp4",
        "{extra}/.hidden.mp4",
        "x/.a.mp4",
        ".mp4",
    ],
)
def test_a_name_that_leads_out_or_to_hidden_files_is_forbidden(
    outputs: OutputPaths, root: Path, extra: Path, name: str
) -> None:
    with pytest.raises(PathForbidden) as caught:
        outputs.resolve(name.format(root=root, extra=extra))
    assert str(root.parent) not in caught.value.detail


@pytest.mark.parametrize("name", ["../a.mp4", "x/../a.mp4", "{root}/../a.mp4"])
def test_a_name_that_climbs_is_told_so(outputs: OutputPaths, root: Path, name: str) -> None:
    with pytest.raises(PathForbidden, match="outside"):
        outputs.resolve(name.format(root=root))


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "x/",
        "/",
        ".",
        "./.",
        "a\0.mp4",
        "a\n.mp4",
        "a\x85.mp4",
        "x\\a.mp4",
        "\ud800",
        "n" * 252,
        "x/" * 600 + "a",
    ],
)
def test_a_name_that_no_file_can_have_is_invalid(outputs: OutputPaths, name: str) -> None:
    with pytest.raises(InvalidField) as caught:
        outputs.resolve(name, field="save_video_path")
    assert caught.value.field == "save_video_path"


def test_a_name_is_a_place_or_a_refusal_whatever_it_is(outputs: OutputPaths, root: Path, extra: Path) -> None:
    chance = random.Random(0)
    pieces = [
        "/",
        "..",
        ".",
        "a",
        "outputs",
        "\\",
        "\0",
        "\ud800",
        "~",
        " ",
        ".mp4",
        str(root),
        str(extra),
        "é" * 90,
    ]
    for _ in range(3000):
        try:
            place = outputs.resolve("".join(chance.choices(pieces, k=chance.randint(0, 6))))
        except ServiceError:
            continue
        assert place.root in (root, extra)
        assert place.path.resolve().is_relative_to(place.root)
        assert not any(part.startswith(".") for part in place.relative.parts)


@pytest.mark.parametrize("name", ["link/a.mp4", "link/new/a.mp4", "{root}/link/a.mp4"])
def test_a_link_out_of_the_root_is_forbidden(
    outputs: OutputPaths, root: Path, extra: Path, name: str
) -> None:
    (root / "link").symlink_to(extra)
    with pytest.raises(PathForbidden):
        outputs.resolve(name.format(root=root))


def test_a_link_to_the_attempts_is_forbidden(outputs: OutputPaths, root: Path) -> None:
    (root / ".attempts").mkdir()
    (root / "link").symlink_to(root / ".attempts")
    with pytest.raises(PathForbidden):
        outputs.resolve("link/a.mp4")


def test_a_root_that_is_itself_a_link_works(root: Path, tmp_path: Path) -> None:
    alias = tmp_path / "alias"
    alias.symlink_to(root)
    outputs = OutputPaths(alias)
    assert outputs.resolve("a").path == alias / "a.mp4"
    assert outputs.resolve(f"{root}/a") == outputs.resolve(f"{alias}/a") == outputs.resolve("a")


def test_a_root_inside_an_extra_root_keeps_its_own_name(root: Path) -> None:
    outputs = OutputPaths(root, (root.parent,))
    assert outputs.resolve(f"{root}/a").root == root


def test_a_folder_and_a_file_used_as_one_are_refused(outputs: OutputPaths, root: Path) -> None:
    (root / "folder.mp4").mkdir()
    (root / "file.mp4").touch()
    for name in ("folder.mp4", "folder", "file.mp4/a.mp4", "file.mp4/x/a.mp4"):
        with pytest.raises(InvalidField):
            outputs.resolve(name)


def test_every_task_id_has_a_default_place_of_its_own(outputs: OutputPaths, root: Path) -> None:
    ids = ["a", "A", ".", "..", "...", ".a", "-", "_", "_.a", "a.mp4", "a.mp4.mp4", "x" * 128, "." * 128]
    places = [default_place(outputs, task_id) for task_id in ids]
    assert len({place.path for place in places}) == len(ids)
    assert all(outputs.resolve(outputs.public_path(place)) == place for place in places)
    assert outputs.default_path("a") == "outputs/videos/a.mp4"
