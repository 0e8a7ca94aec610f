"""Bodies made to cost: each is refused early, or read beside everybody else's requests."""

import asyncio
import json
import threading
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from serve_app.api.http import body_limit
from serve_app.errors import ImageUnreadable
from serve_app.media.file_intake import FileIntake
from tests.http.http_service import HttpService, listening_at

SUBMIT, FORM = "/v1/tasks/video", "/v1/tasks/video/form"
URLENCODED = "application/x-www-form-urlencoded"


def multipart(headers: bytes, content: bytes = b"x") -> bytes:
    return b"--X\r\n" + headers + b"\r\n\r\n" + content + b"\r\n--X--\r\n"


HEAVY = {
    "escapes": (FORM, URLENCODED, b"prompt=" + b"%41" * 400_000, 413),
    "blanks": (FORM, URLENCODED, b"prompt=" + b"+" * 1_100_000, 413),
    "keys": (SUBMIT, "", b'{"prompt":"a",' + b",".join(b'"k%d":1' % n for n in range(60_000)) + b"}", 422),
    "lists": (SUBMIT, "", b'{"prompt":"a","x":[' + b"[]," * 60_000 + b"[]]}", 422),
    "depth": (SUBMIT, "", b'{"prompt":' + b"[" * 90_000 + b"]" * 90_000 + b"}", 422),
    "openai": ("/v1/videos", "application/json", b'{"prompt":"a","x":[' + b"0," * 110_000 + b"0]}", 422),
    "lightx2v": ("/lightx2v/v1/tasks/video", "", b"[" * 110_000, 422),
    "remix": ("/v1/videos/x/remix", "", b'{"prompt":"' + b"a" * 1_000_000 + b'"}', 413),
    "reorder": ("/v1/tasks/x", "", b'{"priority":' + b" " * 1_000_000 + b"1}", 413),
    "part headers": (FORM, "multipart/form-data; boundary=X", multipart(b"A: b\r\n" * 20_000 + b"A: b"), 422),
    "part name": (
        FORM,
        "multipart/form-data; boundary=X",
        multipart(b'Content-Disposition: form-data; name="' + b"n" * 100_000 + b'"'),
        422,
    ),
}


@pytest.mark.asyncio
async def test_a_body_with_too_much_in_it_is_refused(service: HttpService) -> None:
    for name, (path, kind, content, status) in HEAVY.items():
        method = "PATCH" if name == "reorder" else "POST"
        answer = await service.client.request(method, path, content=content, headers={"Content-Type": kind})
        assert answer.status_code == status, name
        assert len(answer.content) < 500


@pytest.mark.asyncio
async def test_others_are_answered_while_a_large_body_is_parsed(
    service: HttpService, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    parse: Callable[..., Any] = json.loads

    def slow(*arguments: Any, **options: Any) -> Any:
        begun.set()
        assert go_on.wait(30)
        return parse(*arguments, **options)

    monkeypatch.setattr(json, "loads", slow)
    large = {"prompt": "a red ball", "image_path": "A" * 100_000}
    submit = asyncio.create_task(service.client.post(SUBMIT, content=json.dumps(large)))
    assert await asyncio.to_thread(begun.wait, 30)
    assert (await service.client.get("/health")).status_code == 200
    assert not submit.done()
    go_on.set()
    assert (await submit).status_code == 400, "that was no picture"


@pytest.mark.slow
async def test_a_body_that_drips_in_is_refused_and_an_answer_that_takes_its_time_is_not(
    service: HttpService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body_limit, "_GRACE_S", 0.2)
    async with listening_at(service) as url:
        _, _, port = url.rpartition(":")
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
        writer.write(f"POST {SUBMIT} HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\n{{".encode())
        head, _, answer = (await asyncio.wait_for(reader.read(), 30)).partition(b"\r\n\r\n")
        writer.close()
        assert head.startswith(b"HTTP/1.1 408 ") and json.loads(answer)["code"] == "too_slow"
        waiting = await service.client.post(f"{SUBMIT}?wait=0.4", json={"prompt": "a red ball"})
        assert waiting.status_code == 202


@pytest.mark.parametrize("text", ["AA " * 700_000, "data:image/png;base64," + "%41" * 900_000], ids=len)
def test_a_file_as_text_takes_a_few_times_its_size(text: str) -> None:
    files = FileIntake(max_bytes=20_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(ImageUnreadable):
            asyncio.run(files.read("." + text if text[0] == "A" else f"{text}.", "image_path"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 60_000_000
