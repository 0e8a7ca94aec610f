"""A fault of the service itself is answered like a refusal; only the log has its details."""

import logging

import httpx
import pytest

from serve_app.api.http.refusals import CrashGuard
from tests.http.test_refusals import assert_refused


async def test_an_unforeseen_error_is_a_500_without_its_details(caplog: pytest.LogCaptureFixture):
    async def broken(_scope: object, _receive: object, _send: object) -> None:
        raise RuntimeError("secret at /tmp/database")

    transport = httpx.ASGITransport(CrashGuard(broken))
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        with caplog.at_level(logging.ERROR, logger="ray.serve"):
            body = assert_refused(await client.get("/"), 500)
    assert body["code"] == "internal" and "secret" not in body["detail"]
    assert "secret" in caplog.text
