"""The uv command: pip's settings translated to uv's, so that uv installs what pip would."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import uv_command
from uv_command import command, settings

from tests.needed import needed

PIP = [sys.executable, "-m", "pip"]


def words(listing: str) -> list[str]:
    """Return uv's environment and options for these settings of pip."""
    first, *rest = command("uv", settings(listing))
    assert first == "env"
    fixed = ["uv", "pip", "install", "--index-strategy", "unsafe-best-match"]
    start = rest.index("uv")
    assert rest[start : start + len(fixed)] == fixed
    return rest[:start] + rest[start + len(fixed) :]


@pytest.mark.parametrize(
    ("setting", "wanted"),
    [
        ("global.index-url='https://mirror/simple'", ["--default-index", "https://mirror/simple"]),
        ("global.extra-index-url='https://a\\nhttps://b'", ["--index", "https://a", "--index", "https://b"]),
        (":env:.find-links='/opt/wheels /more'", ["--find-links", "/opt/wheels", "--find-links", "/more"]),
        ("install.constraint='/etc/caps.txt'", ["--constraint", "/etc/caps.txt"]),
        ("global.trusted-host='mirror'", ["--allow-insecure-host", "mirror"]),
        ("global.no-index='true'", ["--no-index"]),
        ("global.no-index='false'", []),
        ("global.cert='/etc/ca.pem'", ["SSL_CERT_FILE=/etc/ca.pem"]),
        (":env:.default-timeout='180'", ["UV_HTTP_TIMEOUT=180"]),
        ("global.proxy='http://proxy'", ["HTTP_PROXY=http://proxy", "HTTPS_PROXY=http://proxy"]),
        (":env:.disable-pip-version-check='1'", []),
        (":env:.index-url=''", []),
        ("freeze.all='true'", []),
    ],
)
def test_a_setting_of_pip_becomes_uvs(setting: str, wanted: list[str]) -> None:
    assert words(setting) == wanted


def test_the_environment_has_the_last_word_and_the_general_section_the_first() -> None:
    listing = ":env:.index-url='https://c'\nglobal.index-url='https://a'\ninstall.index-url='https://b'"
    assert words(listing) == ["--default-index", "https://c"]


@pytest.mark.parametrize("setting", ["global.pre", "install.only-binary", "global.anything"])
def test_a_setting_that_uv_is_not_known_to_follow_is_named_and_pip_installs(setting: str) -> None:
    found = subprocess.run(
        [sys.executable, uv_command.__file__, "uv"], input=f"{setting}='1'", capture_output=True, text=True
    )
    assert (found.returncode, found.stdout) == (1, "")
    assert f"pip's setting {setting.partition('.')[2]}" in found.stderr


def test_uv_takes_the_file_that_pip_takes(tmp_path: Path) -> None:
    """Compare pip and uv: heavy is capped and in a folder of wheels; the latest light is on one of two
    indices.
    """
    found = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    uv = needed(found, "uv", "an environment that uv has made")
    index(tmp_path / "index", "heavy-1.0", "heavy-2.0", "light-2.0")
    index(tmp_path / "extra", "light-1.0")
    wheel(tmp_path / "wheels", "heavy-1.0+cpu")
    (tmp_path / "caps.txt").write_text("heavy<2\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))}
    environment |= {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": (tmp_path / "index").as_uri(),
        "PIP_EXTRA_INDEX_URL": (tmp_path / "extra").as_uri(),
        "PIP_FIND_LINKS": str(tmp_path / "wheels"),
        "PIP_CONSTRAINT": str(tmp_path / "caps.txt"),
        "UV_CACHE_DIR": str(tmp_path / "cache"),
    }

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=True)

    report = run(*PIP, "install", "--quiet", "--dry-run", "--report", "-", "heavy", "light").stdout
    install = command(uv, settings(run(*PIP, "config", "list").stdout))
    said = run(*install, "--python", sys.executable, "--dry-run", "heavy", "light").stderr
    packages = [package["metadata"] for package in json.loads(report)["install"]]
    picked = {f"{package['name']}=={package['version']}" for package in packages}
    assert picked == {"heavy==1.0+cpu", "light==2.0"}
    assert {f" + {name}" for name in picked} == {line for line in said.splitlines() if line.startswith(" + ")}


def index(folder: Path, *packages: str) -> None:
    """Write a package index that holds these packages."""
    for package in packages:
        wheel(folder / package.partition("-")[0], package)
    for project in folder.iterdir():
        links = [f"<a href='{file.name}'>{file.name}</a>" for file in project.iterdir()]
        (project / "index.html").write_text("<!DOCTYPE html>" + "".join(links))


def wheel(folder: Path, package: str) -> None:
    """Write the wheel of an empty package."""
    folder.mkdir(parents=True, exist_ok=True)
    name, version = package.split("-")
    info = f"{package}.dist-info"
    with zipfile.ZipFile(folder / f"{package}-py3-none-any.whl", "w") as file:
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")
