"""Tasks and random kills: every acknowledged task ends exactly once, and the checker sees each broken
promise.
"""

from pathlib import Path
from typing import Any

import pytest

from testbed.drill.checker import Checker
from testbed.drill.drill import DrillPlan, drill


@pytest.mark.timeout(900)
@pytest.mark.slow
def test_two_hundred_tasks_and_thirty_kills_lose_duplicate_and_change_nothing(tmp_path: Path) -> None:
    # Serve takes half a minute to bring a killed proxy back; that is for longer drills.
    spared = frozenset({"proxy killed"})
    outcome = drill(DrillPlan(tasks=200, kills=30, pause_s=(0.2, 1.2), spared=spared), tmp_path)
    assert outcome.verdict.is_clean, outcome.as_json()
    assert outcome.verdict.acknowledged == 200
    assert sum(outcome.kills.values()) == 30
    assert outcome.verdict.outcomes["succeed"] > 150


STATUS = {"status": "running", "progress": 0.5, "attempt": 1, "finished_at": None}
ENDED = {"status": "succeed", "progress": 1.0, "attempt": 1, "finished_at": "2026-01-01T00:00:00.000Z"}


def followed(told: dict[str, list[str]], seen: list[str]) -> Checker:
    """A checker of a task that has succeeded, of which these messages and events came."""
    checker = Checker(frozenset({"follower"}))
    checker.acknowledged("t")
    checker.status("t", ENDED)
    for type, ids in told.items():
        for message_id in ids:
            checker.told("t", type, message_id)
    for status in seen:
        checker.saw("follower", {"task_id": "t", "status": status})
    return checker


def test_a_task_that_is_told_and_seen_is_clean_and_a_message_may_come_again() -> None:
    checker = followed({"task.succeeded": ["msg_1", "msg_1"]}, ["running", "succeed", "succeed"])
    assert checker.verdict().is_clean
    assert checker.verdict().repeated == 1


@pytest.mark.parametrize(
    ("told", "seen", "fault"),
    [
        ({}, ["succeed"], "untold"),
        ({"task.failed": ["msg_1"]}, ["succeed"], "untold"),
        ({"task.succeeded": ["msg_1", "msg_2"]}, ["succeed"], "untold"),
        ({"task.succeeded": ["msg_1"]}, ["running"], "unseen"),
        ({"task.succeeded": ["msg_1"]}, ["succeed", "running"], "changed"),
    ],
)
def test_the_checker_sees_an_end_that_was_not_told(
    told: dict[str, list[str]], seen: list[str], fault: str
) -> None:
    verdict = followed(told, seen).verdict()
    assert getattr(verdict, fault) == ["t"] and not verdict.is_clean


def seen(*answers: dict[str, Any]) -> Checker:
    checker = Checker()
    checker.acknowledged("t")
    for answer in answers:
        checker.status("t", answer)
    return checker


def test_a_task_that_ends_once_is_clean() -> None:
    checker = seen(STATUS, ENDED, ENDED)
    checker.result("t", b"video")
    checker.result("t", b"video")
    checker.listed(["t"])
    assert checker.verdict().is_clean


@pytest.mark.parametrize(
    ("answers", "fault"),
    [
        ((STATUS,), "stuck"),
        ((STATUS, {**STATUS, "progress": 0.4}), "changed"),
        ((ENDED, STATUS), "changed"),
        ((ENDED, {**ENDED, "status": "failed"}), "changed"),
        ((ENDED, {**ENDED, "attempt": 2}), "duplicated"),
        ((ENDED, {**ENDED, "finished_at": "2026-01-01T00:00:01.000Z"}), "duplicated"),
    ],
)
def test_the_checker_sees_a_broken_promise(answers: tuple[dict[str, Any], ...], fault: str) -> None:
    verdict = seen(*answers).verdict()
    assert getattr(verdict, fault) == ["t"]
    assert not verdict.is_clean


def test_the_checker_sees_another_result_a_missing_task_and_a_second_row() -> None:
    checker = seen(ENDED)
    checker.result("t", b"video")
    checker.result("t", b"another")
    assert checker.verdict().changed == ["t"]
    checker.listed(["t", "t"])
    assert checker.verdict().duplicated == ["t"]
    checker.listed([])
    assert checker.verdict().lost == ["t"]
