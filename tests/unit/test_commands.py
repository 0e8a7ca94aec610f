"""The commands of an installed package: each exists and prints its help without starting anything."""

import hashlib
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from serve_app.cli import command_reference, handed_on
from serve_app.cli.commands import main, program
from wan_serve.commands.exit_status import ExitStatus

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SCRIPTS = PROJECT["project"]["scripts"]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def test_there_are_commands_to_serve_and_to_generate() -> None:
    assert set(SCRIPTS) == {"wan-serve", "wan-generate"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_command_shows_its_help_and_loads_neither_ray_nor_torch(name: str) -> None:
    point = EntryPoint(name, SCRIPTS[name], "console_scripts")
    assert callable(point.load())
    code = f"""
import atexit, sys
from {point.module} import {point.attr}
atexit.register(lambda: print("loaded:", *{{"ray", "torch"}} & set(sys.modules)))
sys.exit({point.attr}())
"""
    done = run("-c", code, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.lower().lstrip().startswith(f"usage: {name} ")
    assert done.stdout.splitlines()[-1] == "loaded:"


@pytest.mark.parametrize("command", ["serve", "run", "check"])
def test_each_command_of_the_service_shows_its_arguments(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--help"]) == 0
    said = capsys.readouterr().out
    assert said.lstrip().startswith(f"Usage: wan-serve {command} ")
    assert "CONFIG" in said


@pytest.mark.parametrize("arguments", [[], ["serve"], ["run"], ["serve", "config.yaml", "--port", "0"]])
def test_a_wrong_command_line_ends_with_where_its_help_is(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == ExitStatus.USAGE
    said = capsys.readouterr().err
    assert said.startswith(f"wan-serve {' '.join(arguments[:1])}".strip())
    assert said.endswith("--help.\n") and said.count("\n") == 1


def test_the_page_of_the_commands_is_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    assert page == command_reference.as_markdown() + "\n", f"out of date: {command_reference.COMMAND}"
    assert main(["--help"]) == 0
    named = re.findall(r"^│ ([a-z]\w*) ", capsys.readouterr().out, re.MULTILINE)
    assert len(named) > 20
    for name in named:
        assert f"### `wan-serve {name}" in page
    assert main(["commands", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [each["usage"] for each in listed if "submit" in each["usage"]] == ["wan-serve submit [PROMPT]"]


def documented() -> Iterator[tuple[Path, list[str]]]:
    """Yield the words of each command of ``wan-serve`` that stands in a block of the docs."""
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                    words.pop(0)
                if words[:1] == ["wan-serve"]:
                    yield page, words[1:]


def test_each_command_in_the_docs_is_one_that_there_is() -> None:
    app: Any = typer.main.get_command(program())
    found = list(documented())
    assert len(found) > 10
    for page, words in found:
        command = app
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        with command.make_context(str(page), words):  # which reads the arguments, and refuses what is wrong
            assert not hasattr(command, "commands"), (page, words)
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for name in re.findall(r"`wan-serve ([a-z]\w*)", page.read_text()):
            assert name in app.commands, page


@pytest.mark.parametrize(("command", "named"), [("bench", "hostile_videos"), ("generate", "wan-generate")])
def test_programs_of_their_own_get_all_arguments(command: str, named: str) -> None:
    done = run("-m", "serve_app.cli", command, "--help")
    assert done.returncode == 0 and done.stdout.lower().startswith("usage: ")
    assert named in done.stdout


@pytest.mark.parametrize("command", ["bench", "drill"])
def test_an_installed_package_says_that_it_has_no_benchmarks(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(handed_on, "ROOT", tmp_path)
    assert main([command, "--tasks", "3"]) == ExitStatus.FAILED
    assert f"wan-serve {command} needs a checkout of the repository" in capsys.readouterr().err


def test_the_client_s_own_package_says_which_extra_its_commands_need() -> None:
    script = (
        "import sys; sys.modules['typer'] = None\n"
        "from wan_serve.commands.__main__ import main; sys.exit(main())"
    )
    done = run("-c", script)
    assert (done.returncode, done.stdout) == (ExitStatus.FAILED, "")
    assert done.stderr == 'wan-serve needs the extra cli: pip install "wan-serve-client[cli]"\n'


def test_keys_are_made_and_listed_without_their_secrets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["keys", "make", "ann", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    key = made.pop("key")
    assert made["sha256"] == hashlib.sha256(key.encode()).hexdigest()
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"applications": [{"args": {"keys": [made | {"admin": True}]}}]}))
    assert main(["keys", "list", str(config), "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["name"], listed["admin"], listed["sha256"]) == ("ann", True, made["sha256"])
    assert main(["keys", "list", str(config)]) == 0
    said = capsys.readouterr().out
    assert "ann" in said and made["sha256"] in said and "whsec_" not in said
    assert main(["keys", "make", "Ann B."]) == ExitStatus.USAGE
    assert capsys.readouterr().err.startswith("keys.name: ")
    made["sha256"] = key
    config.write_text(yaml.safe_dump({"applications": [{"args": {"keys": [made]}}]}))
    assert main(["keys", "list", str(config)]) == ExitStatus.USAGE
    said = capsys.readouterr().err
    assert "keys.sha256: " in said and key not in said


@pytest.mark.slow
def test_check_names_the_fault_of_a_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    config["applications"][0]["args"]["task"] = {}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    done = run("-m", "serve_app.cli", "check", path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"{path}: args.task: is not a setting; did you mean tasks? allowed here: ")
    assert done.stderr.count("\n") == 1
    assert main(["check", str(path), "--json"]) == ExitStatus.USAGE
    said = json.loads(capsys.readouterr().out)
    assert not said["is_valid"] and said["reason"].startswith("args.task: ")


@pytest.mark.slow
def test_check_has_nothing_to_say_of_the_configuration_that_comes_along(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    config["applications"][0]["args"]["data_dir"] = str(tmp_path / "data")
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    done = run("-m", "serve_app.cli", "check", path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert main(["check", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["is_valid"]


def test_a_wheel_holds_the_packages_of_the_commands_and_no_tests() -> None:
    included = set(PROJECT["tool"]["setuptools"]["packages"]["find"]["include"])
    packages = {"models", "offline", "serve_app", "wan_serve"}
    assert included == packages | {f"{package}.*" for package in packages}
    assert {path.partition(".")[0] for path in SCRIPTS.values()} <= packages
