"""The web pages: they load from this service alone, wherever it is mounted."""

import re

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from serve_app.api.application import build_api
from tests.http.http_service import HttpService

LINKS = re.compile(r"""(?:href|src)="([^"]*)"|data-url="([^"]*)\"""")


def links(page: httpx.Response) -> list[str]:
    """Return every address that a page loads or links to, places on the page itself left out."""
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    return [found for src, url in LINKS.findall(page.text) if not (found := src or url).startswith("#")]


async def test_the_docs_load_everything_from_the_service(service: HttpService):
    page = await service.client.get("/docs")
    assert "//" not in "".join(links(page)) and not re.search(r"https?:", page.text)
    types = {
        link: (await service.client.get(link)).raise_for_status().headers["content-type"].partition(";")[0]
        for link in links(page)
    }
    # Older systems' type lists have the script's former name.
    assert types.pop("/docs/assets/swagger-ui-bundle.js") in ("text/javascript", "application/javascript")
    assert types.pop("/docs/start.js") == "text/javascript"
    assert types == {
        "/docs/assets/swagger-ui.css": "text/css",
        "/docs/assets/favicon.png": "image/png",
        "/openapi.json": "application/json",
    }


async def test_swagger_ui_is_new_enough_for_our_document(service: HttpService):
    document = (await service.client.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1.")
    script = (await service.client.get("/docs/assets/swagger-ui-bundle.js")).text
    version = re.search(r'PACKAGE_VERSION:"(\d+)\.', script)
    assert version is not None and int(version[1]) >= 5


async def test_the_docs_ask_no_validator(service: HttpService):
    # Swagger UI would show its document to validator.swagger.io.
    assert '"validatorUrl": null' in (await service.client.get("/docs/start.js")).text


async def test_the_pages_work_below_a_prefix(service: HttpService):
    api = build_api(service.settings, lambda: None, lambda _task: None, on_streams=lambda _count: None)
    outer = httpx.ASGITransport(Starlette(routes=[Mount("/video/wan", app=api)]))
    async with httpx.AsyncClient(transport=outer, base_url="http://service") as client:
        for path in ("/video/wan/docs", "/video/wan/docs/", "/video/wan/"):
            found = links(await client.get(path))
            assert len(found) >= 3
            for link in found:
                assert link.startswith("/video/wan/")
                assert (await client.get(link)).status_code == 200, link


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/%00",
        "/nothing.js",
        "/%2e%2e/core.py",
        "/%2e%2e/%2e%2e/openapi.json",
        "/%2e%2e%2f__init__.py",
        "/..%5ccore.py",
        "//etc/passwd",
        "/%2fetc%2fpasswd",
        "/swagger-ui.css/%2e%2e/%2e%2e/core.py",
        "/" + "x" * 300,
    ],
)
async def test_only_the_files_of_swagger_ui_can_be_read(service: HttpService, path: str):
    response = await service.client.get(f"/docs/assets{path}")
    assert response.status_code == 404 and response.json()["code"] == "not_found"


@pytest.mark.parametrize("path", ["/redoc", "/docs/oauth2-redirect"])
async def test_pages_that_nothing_needs_are_not_there(service: HttpService, path: str):
    assert (await service.client.get(path)).status_code == 404


async def test_the_assets_can_only_be_read(service: HttpService):
    response = await service.client.post("/docs/assets/swagger-ui.css")
    assert response.status_code == 405 and response.json()["code"] == "method_not_allowed"
