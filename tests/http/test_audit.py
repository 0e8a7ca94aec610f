"""The audit log: who had the service do what, and nothing of a prompt or a key."""

import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import pytest_asyncio

from serve_app.config.audit_settings import AuditSettings
from serve_app.files.audit_log import AuditLog
from serve_app.tasks.caller import Caller
from tests.http.http_service import HttpService, running, settings

ALICE, OPERATOR = "alices-key-of-forty-letters", "operators-key-of-forty-letters"
KEYS: list[dict[str, Any]] = [
    {"name": "alice", "sha256": hashlib.sha256(ALICE.encode()).hexdigest()},
    {"name": "operator", "sha256": hashlib.sha256(OPERATOR.encode()).hexdigest(), "admin": True},
]


@pytest.fixture
def audit(tmp_path: Path) -> Iterator[AuditLog]:
    yield AuditLog(AuditSettings(path=tmp_path / "audit.jsonl"))


@pytest_asyncio.fixture
async def service(folder: Path, audit: AuditLog) -> AsyncIterator[HttpService]:
    audited = settings(folder, keys=KEYS, audit={"path": str(folder / "audit.jsonl")})
    async with running(audited, acts=audit) as service:
        yield service


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def ask(service: HttpService, key: str, method: str, path: str, **more: Any) -> int:
    headers = {"X-API-Key": key, **more.pop("headers", {})}
    return (await service.client.request(method, path, headers=headers, **more)).status_code


async def test_each_act_has_a_line_with_who_and_from_where_and_no_prompt_and_no_key(
    service: HttpService, audit: AuditLog, folder: Path
) -> None:
    body = {"prompt": "a hidden ball", "task_id": "t", "save_result_path": "hidden.mp4"}
    forwarded = {"X-Forwarded-For": "203.0.113.7"}
    assert await ask(service, ALICE, "POST", "/v1/tasks/video", json=body, headers=forwarded) == 200
    assert await ask(service, ALICE, "POST", "/v1/tasks/video", json=body) == 409  # there is one of that id
    assert await ask(service, ALICE, "GET", "/v1/tasks/t/status") == 200
    assert await ask(service, OPERATOR, "PATCH", "/v1/tasks/t", json={"priority": 3}) == 200
    assert await ask(service, OPERATOR, "POST", "/v1/tasks/queue/pause", params={"model": "demo"}) == 200
    assert await ask(service, "no-key", "DELETE", "/v1/tasks/t") == 401
    assert await ask(service, OPERATOR, "DELETE", "/v1/tasks/t") == 200
    audit.close()
    found = lines(folder / "audit.jsonl")
    assert [(line["key"], line["act"], line.get("task_id")) for line in found] == [
        ("alice", "submit", "t"),
        ("operator", "reorder", "t"),
        ("operator", "pause", None),
        ("operator", "cancel", "t"),
    ]
    submit, reorder, pause, cancel = found
    assert (submit["from"], submit["forwarded_for"], submit["admin"]) == ("127.0.0.1", "203.0.113.7", False)
    assert (reorder["owner"], cancel["owner"], pause["model"]) == ("alice", "alice", "demo")
    assert reorder["admin"] and "forwarded_for" not in reorder
    text = (folder / "audit.jsonl").read_text()
    assert "hidden" not in text and "letters" not in text and str(KEYS[0]["sha256"]) not in text
    assert (folder / "audit.jsonl").stat().st_mode & 0o777 == 0o600


def test_processes_that_share_a_file_rotate_it_and_lose_no_line(tmp_path: Path) -> None:
    settings = AuditSettings(path=tmp_path / "audit.jsonl", max_bytes=10_000, keep=1000)
    logs = [AuditLog(settings) for _ in range(3)]

    def work(number: int) -> None:
        for turn in range(3000):
            logs[number].did(Caller(f"key{number}"), "submit", task_id=f"t{number}-{turn}")

    threads = [Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for log in logs:
        log.close()
    files = [path for path in tmp_path.iterdir() if path.suffix != ".lock"]
    seen = [line["task_id"] for path in files for line in lines(path)]
    assert sorted(seen) == sorted(f"t{number}-{turn}" for number in range(3) for turn in range(3000))
    assert len(files) > 3


def test_only_so_many_files_are_kept(tmp_path: Path) -> None:
    log = AuditLog(AuditSettings(path=tmp_path / "audit.jsonl", max_bytes=10_000, keep=2))
    for turn in range(3000):
        log.did(Caller("alice"), "submit", task_id=f"t{turn}")
    log.close()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"audit.jsonl", "audit.jsonl.1", "audit.jsonl.2", "audit.jsonl.lock"}
    assert lines(tmp_path / "audit.jsonl")[-1]["task_id"] == "t2999"


def test_a_disk_that_takes_no_line_stops_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "audit.jsonl").mkdir()
    log = AuditLog(AuditSettings(path=tmp_path / "audit.jsonl"))
    log.did(Caller("alice"), "submit", task_id="t")
    log.close()
    assert "1 lines were not written" in caplog.text
