"""The metrics: they take what the service tells them, and the docs list each with its kind and its tags."""

import re
from pathlib import Path

from ray.util.metrics import Counter, Gauge, Histogram, Metric

from serve_app.metrics import (
    CacheMetrics,
    LinkMetrics,
    ServiceMetrics,
    StoreMetrics,
    StreamMetrics,
    TaskMetrics,
    UploadMetrics,
    WebhookMetrics,
)
from serve_app.tasks.webhook import DeliveryState

DOCS = Path(__file__).parents[2] / "docs" / "operations" / "watching.md"
KINDS = {Counter: "counter", Gauge: "gauge", Histogram: "histogram"}


def test_the_docs_list_each_metric_with_its_kind_and_its_tags() -> None:
    models = ("paced",)
    parts: tuple[object, ...] = (
        TaskMetrics(models),
        ServiceMetrics(models),
        StoreMetrics("api"),
        CacheMetrics("paced"),
        WebhookMetrics(),
        UploadMetrics(),
        StreamMetrics(),
        LinkMetrics(()),
    )
    metrics = [
        metric.info | {"kind": KINDS[type(metric)]}
        for part in parts
        for metric in vars(part).values()
        if isinstance(metric, Metric)
    ]
    made = {(m["name"], m["kind"], tuple(m["tag_keys"])) for m in metrics}
    rows = re.findall(r"^\| `(wan_serve_\w+)` \| (\w+) \| .* \| ([^|]*) ?\|$", DOCS.read_text(), re.MULTILINE)
    assert made == {(name, kind, tuple(re.findall(r"`(\w+)`", tags))) for name, kind, tags in rows}


def test_each_state_of_a_message_and_each_count_of_streams_is_taken() -> None:
    for state in DeliveryState:
        WebhookMetrics().attempted(state)
    StreamMetrics().open(2)
