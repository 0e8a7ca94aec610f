"""The dashboard: Prometheus can read each of its expressions, and each metric is on it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.manifests import ROOT, Objects, faults
from tests.deploy.test_alerts import METRICS, SERIES
from tests.prometheus import promtool

DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy/grafana/wan-serve.json").read_text())
VARIABLES = {"$__rate_interval": "5m", "$model": ".*"}
"""What Grafana puts in place of its variables."""


def expressions() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield target["expr"]


def test_prometheus_reads_each_expression_and_the_service_exports_what_it_names(tmp_path: Path) -> None:
    rules = []
    for number, expression in enumerate(expressions()):
        assert set(re.findall(r"\bray_\w+", expression)) <= SERIES, expression
        for variable, value in VARIABLES.items():
            expression = expression.replace(variable, value)
        assert "$" not in expression
        rules.append({"record": f"panel_{number}", "expr": expression})
    file = tmp_path / "panels.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    assert not promtool("check", "rules", file)


def test_every_metric_has_a_panel() -> None:
    shown = " ".join(expressions())
    assert [name for name in METRICS if f"ray_{name}" not in shown] == []


def test_the_config_map_has_the_label_that_a_sidecar_of_grafana_looks_for_and_the_dashboard(
    everything: Objects,
) -> None:
    found = everything["ConfigMap", "wan-serve-dashboard"]
    assert found["metadata"]["labels"] == {"grafana_dashboard": "1"}
    assert json.loads(found["data"]["wan-serve.json"]) == DASHBOARD
    assert not faults(found)


def test_panels_do_not_lie_on_each_other_and_have_a_title_and_a_number_of_their_own() -> None:
    panels = DASHBOARD["panels"]
    places = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in panels
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(set(places)) == len(places) and max(x for x, _ in places) < 24
    assert len({panel["id"] for panel in panels}) == len(panels) and all(panel["title"] for panel in panels)
