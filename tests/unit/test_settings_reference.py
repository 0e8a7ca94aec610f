"""Every setting is listed, in a terminal and in the docs."""

import json
from pathlib import Path

import pytest

from models.tuning import Tuning
from serve_app.cli.commands import main
from serve_app.config.model_settings import AutoscalingSettings, ModelSettings
from serve_app.config.settings import AppSettings, LimitSettings
from serve_app.config.settings_reference import COMMAND, Group, Setting, as_markdown, reference

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def group(place: str) -> Group:
    return next(group for group in reference() if group.place == place)


def setting(place: str, key: str) -> Setting:
    return next(setting for setting in group(place).settings if setting.key == key)


def test_the_page_is_what_the_settings_are() -> None:
    assert PAGE.read_text() == as_markdown() + "\n", f"docs/settings.md is out of date: {COMMAND}"


def test_every_setting_has_a_sentence_of_its_own() -> None:
    for found in reference():
        sentences = [setting.sentence for setting in found.settings]
        assert all(len(sentence) > 10 for sentence in sentences), found
        assert len(set(sentences)) == len(sentences), found.place
        assert found.about.endswith("."), found


@pytest.mark.parametrize(
    ("place", "section"),
    [
        ("args", AppSettings),
        ("args.limits", LimitSettings),
        ("args.models[]", ModelSettings),
        ("args.models[].autoscaling", AutoscalingSettings),
    ],
)
def test_each_section_is_listed_with_all_of_its_keys(place: str, section: type[AppSettings]) -> None:
    assert [setting.key for setting in group(place).settings] == list(section.model_fields)


def test_the_engines_options_are_listed_with_their_values() -> None:
    keys = [setting.key for setting in group("args.models[].options").settings]
    assert set(keys) == set(Tuning.__slots__)
    assert setting("args.models[].options", "offload").takes == "one of none, experts, model, group"


def test_defaults_and_ranges_are_told_in_words() -> None:
    assert setting("args.tasks", "lease_s").default == "30"
    assert setting("args.tasks", "lease_s").takes == "a number above 0"
    assert setting("args.models[]", "replicas").takes == "auto or a whole number from 1 to 1024"
    assert setting("args.models[]", "name").default == "required"
    assert setting("args", "input_roots").takes == "a list of paths"


def test_the_settings_command_prints_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings"]) == 0
    printed = capsys.readouterr().out
    assert "args.models[].options: " in printed
    assert "  janitor_period_s: a number above 0; default: 60\n" in printed
    assert main(["settings", "--json"]) == 0
    assert [group["place"] for group in json.loads(capsys.readouterr().out)] == [
        group.place for group in reference()
    ]
    assert main(["settings", "--markdown"]) == 0
    assert capsys.readouterr().out == PAGE.read_text()
