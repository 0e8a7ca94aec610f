"""Tasks and random kills: every acknowledged task ends exactly once, and the checker sees each broken
promise.
"""

import hashlib
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest

from testbed.drill.checker import Checker
from testbed.drill.client import Client, Submits, Work
from testbed.drill.drill import DrillPlan, drill
from testbed.drill.outages import OutageOutcome, longest_recovery_s
from testbed.drill.receiver import Receiver, hook_of, upload_of
from tests.http.receiver import receiving


@pytest.mark.timeout(900)
@pytest.mark.slow
def test_two_hundred_tasks_and_thirty_kills_lose_duplicate_and_change_nothing(tmp_path: Path) -> None:
    outcome = drill(DrillPlan(tasks=200, kills=30, pause_s=(0.2, 1.2)), tmp_path)
    assert outcome.verdict.is_clean, outcome.as_json()
    assert outcome.verdict.acknowledged == 200
    assert sum(outcome.kills.values()) == 30
    assert outcome.verdict.outcomes["succeed"] > 150


STATUS = {"status": "running", "progress": 0.5, "attempt": 1, "finished_at": None}
ENDED = {
    **{"status": "succeed", "progress": 1.0, "attempt": 1, "finished_at": "2026-01-01T00:00:00.000Z"},
    "error": None,
}


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


@pytest.mark.parametrize(
    ("uploads", "unsent"), [([b"video"] * 2, []), ([], ["t"]), ([b"video", b"vid"], ["t"]), ([b"vid"], ["t"])]
)
def test_the_checker_sees_a_video_that_did_not_come_to_its_storage_as_it_is(
    uploads: list[bytes], unsent: list[str]
) -> None:
    checker = seen(ENDED)
    checker.awaits_upload("t")
    checker.result("t", b"video")
    for video in uploads:
        checker.uploaded("t", video)
    assert checker.verdict().unsent == unsent and checker.verdict().is_clean is not bool(unsent)


async def test_messages_and_videos_come_to_the_receiver() -> None:
    checker = seen(ENDED)
    receiver = Receiver(checker)
    url = await receiver.start()
    async with httpx.AsyncClient() as http:
        message = {"type": "task.succeeded", "data": {"task_id": "t"}}
        await http.post(hook_of(url), json=message, headers={"webhook-id": "msg_1"})
        await http.put(upload_of(url, "t"), content=b"video")
    receiver.close()
    record = checker.records["t"]
    assert record.told == {"task.succeeded": ["msg_1"]}
    assert record.uploads == {hashlib.sha256(b"video").hexdigest()}


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


def test_the_checker_sees_a_task_that_failed_and_says_why() -> None:
    verdict = seen(STATUS, {**ENDED, "status": "failed", "error": "engine_error: no frames"}).verdict()
    assert verdict.failed == ["t (engine_error: no frames)"] and not verdict.is_clean


def test_the_checker_sees_another_result_a_missing_task_and_a_second_row() -> None:
    checker = seen(ENDED)
    checker.result("t", b"video")
    checker.result("t", b"another")
    assert checker.verdict().changed == ["t"]
    checker.listed(["t", "t"])
    assert checker.verdict().duplicated == ["t"]
    checker.listed([])
    assert checker.verdict().lost == ["t"]


async def test_a_refused_submit_is_sent_again_and_counted_and_so_is_one_that_was_not_told_when() -> None:
    submits = Submits()
    async with receiving() as service:
        service.answers = ["503 Away\r\nretry-after: 1", "503 Away", "502 Bad Gateway", "200 OK"]
        url = service.url("")
        client = Client(lambda: url, Checker(), Random(1), "", Work((1, 1)), submits)
        await client.submit("t", "demo")
        await client.close()
    assert (submits.refused, submits.unadvised, submits.unanswered) == (2, 1, 0)
    assert len(submits.acknowledged_at) == 1 and len(service.received) == 4


def test_a_recovery_lasts_until_a_submit_is_acknowledged_and_a_task_has_ended() -> None:
    assert longest_recovery_s([10.0, 20.0], [9.0, 11.0, 20.5], [10.5, 23.0]) == 3.0
    assert longest_recovery_s([10.0], [9.0], [10.5]) == 0.5  # no submit came after it


@pytest.mark.parametrize(
    "fault",
    [
        {"attempts_lost": 1},
        {"submits": Submits(refused=1, unadvised=1)},
        {"verdict": seen(STATUS).verdict()},
    ],
)
def test_outages_may_cost_no_attempt_and_leave_no_client_without_advice(fault: dict[str, Any]) -> None:
    clean = OutageOutcome(seen(ENDED).verdict(), {}, Submits(refused=1), 3.0, 0)
    assert clean.is_clean and not replace(clean, **fault).is_clean
