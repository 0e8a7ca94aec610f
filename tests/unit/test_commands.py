"""The commands of an installed package: each exists and prints its help without starting anything."""

import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import yaml

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
    assert done.stdout.startswith(f"usage: {name} ")
    assert done.stdout.splitlines()[-1] == "loaded:"


@pytest.mark.parametrize("command", ["run", "check"])
def test_each_command_of_the_service_shows_its_arguments(command: str) -> None:
    done = run("-m", "serve_app.cli", command, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: wan-serve {command} ")
    assert "CONFIG" in done.stdout


@pytest.mark.parametrize("arguments", [[], ["serve"], ["run"], ["run", "config.yaml", "--port", "0"]])
def test_a_wrong_command_line_ends_with_its_usage(arguments: list[str]) -> None:
    done = run("-m", "serve_app.cli", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: wan-serve")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_check_names_the_fault_of_a_configuration(tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    config["applications"][0]["args"]["task"] = {}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    done = run("-m", "serve_app.cli", "check", path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"{path}: args.task: is not a setting; did you mean tasks? allowed here: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_check_has_nothing_to_say_of_the_configuration_that_comes_along(tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    config["applications"][0]["args"]["data_dir"] = str(tmp_path / "data")
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    done = run("-m", "serve_app.cli", "check", path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_wheel_holds_the_packages_of_the_commands_and_no_tests() -> None:
    included = set(PROJECT["tool"]["setuptools"]["packages"]["find"]["include"])
    packages = {"models", "offline", "serve_app"}
    assert included == {"wan_serve"} | packages | {f"{package}.*" for package in packages}
    assert {path.partition(".")[0] for path in SCRIPTS.values()} <= packages
