"""The log of moves, as text and in Serve's JSON encoding, by Ray's own formatter."""

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from ray._common.formatters import JSONFormatter

from serve_app.tasks.move_log import RUNNING, log_move, structure_logs
from tests.unit.run_stage import TASK

TRACED = replace(TASK, traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")


@pytest.fixture
def output() -> Iterator[StringIO]:
    """What the service's logger writes, with a handler of its own."""
    logger, stream = logging.getLogger("ray.serve"), StringIO()
    handler = logging.StreamHandler(stream)
    before = list(logger.handlers), logger.level
    logger.handlers, logger.level = [handler], logging.INFO
    yield stream
    logger.handlers, logger.level = before


def as_json() -> None:
    # Where Serve has run, the logger does not propagate, and pytest gives it a handler of its own.
    logging.getLogger("ray.serve").handlers[0].setFormatter(JSONFormatter())
    structure_logs()


def last(output: StringIO) -> dict[str, Any]:
    line: dict[str, Any] = json.loads(output.getvalue().splitlines()[-1])
    return line


def test_a_move_is_a_line_of_json_in_a_log_of_text(output: StringIO) -> None:
    log_move("claim", TRACED, waited_s=1.5)
    line = last(output)
    assert (line["move"], line["task_id"], line["attempt"], line["waited_s"]) == ("claim", "t1", 2, 1.5)
    assert line["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    log_move("claim", TASK)
    assert "trace_id" not in last(output)
    assert TASK.spec.prompt not in output.getvalue()


def test_in_a_log_of_json_the_fields_stand_beside_the_words(output: StringIO) -> None:
    as_json()
    log_move("claim", TRACED)
    line = last(output)
    assert line["message"] == "task t1: claim" and line["wan_move"] == "claim"
    assert (line["wan_task_id"], line["wan_uid"]) == ("t1", "u1")
    assert line["trace_id"] == "0af7651916cd43dd8448eb211c80319c"


def test_in_a_log_of_json_every_line_of_a_run_says_which_task_it_is_about(output: StringIO) -> None:
    as_json()
    logger = logging.getLogger("ray.serve")
    logger.info("before")
    assert "wan_task_id" not in last(output)
    token = RUNNING.set(TRACED)
    logger.info("attention: %s", "sdpa")
    RUNNING.reset(token)
    line = last(output)
    assert (line["message"], line["wan_task_id"], line["wan_attempt"]) == ("attention: sdpa", "t1", 2)
    assert line["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
