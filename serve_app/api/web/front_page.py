"""The page at ``/``, on which people make videos: a document, and modules that browsers take as they are."""

import os
from functools import cache
from html import escape
from pathlib import Path
from string import Template

from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from serve_app.api.http.etag import CACHED
from serve_app.api.http.parameters import IsKeyed, RootPath
from serve_app.api.http.safe_headers import STRICT_PAGE_POLICY
from serve_app.api.http.served_route import served_router

_FOLDER = Path(__file__).parent / "page"
_AT = "/page"


class _Files(StaticFiles):
    """The page's files, which a browser keeps and asks about before each use."""

    def file_response(
        self,
        full_path: str | os.PathLike[str],
        stat_result: os.stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers["Cache-Control"] = CACHED
        return response


router = served_router(in_document=False)
"""``/`` and what it loads, in ``/page``."""

router.mount(_AT, _Files(directory=_FOLDER))


@router.get("/")
async def front_page(root_path: RootPath, is_keyed: IsKeyed) -> Response:
    """Send the page, which finds everything below ``root_path``, and knows whether to ask for a key."""
    root = escape(root_path)
    keyed = "true" if is_keyed else "false"
    page = _document().substitute(root=root, keyed=keyed, modules=_preloads(root))
    return HTMLResponse(page, headers={"Content-Security-Policy": STRICT_PAGE_POLICY})


@cache
def _document() -> Template:
    return Template((_FOLDER / "index.html").read_text(encoding="utf-8"))


@cache
def _preloads(root: str) -> str:
    """Return a link for each module, so that a browser asks for all of them at once."""
    modules = sorted(path.relative_to(_FOLDER).as_posix() for path in _FOLDER.rglob("*.js"))
    return "\n".join(f'<link rel="modulepreload" href="{root}{_AT}/{module}">' for module in modules)
