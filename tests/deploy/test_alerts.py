"""The alert rules, as Prometheus reads them: each has cases of firing and not, and a row in the docs."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.manifests import ROOT
from tests.prometheus import promtool

ALERTS = ROOT / "deploy/alerts.yaml"
CASES = Path(__file__).parent / "alert_cases.yaml"
PAGE = (ROOT / "docs/operations/watching.md").read_text()
METRICS = {name: kind for name, kind in re.findall(r"^\| `(wan_serve_\w+)` \| (\w+) \|", PAGE, re.MULTILINE)}
"""The documented metrics with their kinds, which a test holds against the code."""
ENDINGS = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
SERIES = {f"ray_{name}{ending}" for name, kind in METRICS.items() for ending in ENDINGS[kind]}


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    return list(group["rules"])


def unknown_series(expression: str) -> set[str]:
    """Return the series of ours that an expression names and the service does not export."""
    return set(re.findall(r"\bray_\w+", expression)) - SERIES


def cases() -> Iterator[Mapping[str, Any]]:
    for test in yaml.safe_load(CASES.read_text())["tests"]:
        yield from test["alert_rule_test"]


def test_prometheus_takes_the_rules_and_they_name_what_the_service_exports() -> None:
    assert not promtool("check", "rules", ALERTS)
    for rule in rules():
        assert "ray_" in rule["expr"] and not unknown_series(rule["expr"]), rule["alert"]


@pytest.mark.slow
def test_each_alert_fires_when_it_should_and_only_then(tmp_path: Path) -> None:
    names = {rule["alert"] for rule in rules()}
    for is_fired in (True, False):
        assert {case["alertname"] for case in cases() if bool(case["exp_alerts"]) is is_fired} == names
    for file in (ALERTS, CASES):
        (tmp_path / file.name).write_text(file.read_text())
    assert not promtool("test", "rules", tmp_path / CASES.name)


def test_the_docs_say_of_each_alert_what_it_means_and_what_to_do() -> None:
    rows = re.findall(r"^\| `(WanServe\w+)` \| (.+) \| (.+) \|$", PAGE, re.MULTILINE)
    assert [name for name, *_ in rows] == [rule["alert"] for rule in rules()]
    assert all(len(meaning) > 20 and len(remedy) > 20 for _, meaning, remedy in rows)


@pytest.mark.slow
def test_a_rule_that_is_wrong_is_told(tmp_path: Path) -> None:
    """promtool itself is what the other tests stand on."""
    for file in (ALERTS, CASES):
        text = file.read_text().replace("> 1800", "> 4000")
        (tmp_path / file.name).write_text(text)
    assert "WanServeQueueTooLong" in promtool("test", "rules", tmp_path / CASES.name)
    broken = tmp_path / ALERTS.name
    broken.write_text(ALERTS.read_text().replace("> 1800", "> > 1800"))
    assert "parse error" in promtool("check", "rules", broken)
    assert unknown_series("sum(ray_wan_serve_nothing)") == {"ray_wan_serve_nothing"}
