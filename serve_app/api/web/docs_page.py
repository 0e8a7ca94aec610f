"""The page that shows the API to people: Swagger UI, served from here, so that no internet is needed."""

import json
from html import escape

from fastapi import Request
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles

from serve_app.api.http.parameters import RootPath
from serve_app.api.http.safe_headers import PAGE_POLICY
from serve_app.api.http.served_route import served_router

_ASSETS = "/docs/assets"
_SCRIPT = "/docs/start.js"
_SWAGGER_UI = {
    "dom_id": "#swagger-ui",
    "layout": "BaseLayout",
    "deepLinking": True,
    "showExtensions": True,
    "showCommonExtensions": True,
    "docExpansion": "list",
    # The schema has each field's bounds and example, the body's own example only what is required.
    "defaultModelRendering": "model",
    "defaultModelExpandDepth": 3,
    "defaultModelsExpandDepth": -1,
    # Or a badge asks validator.swagger.io for its opinion of the document.
    "validatorUrl": None,
}
# A file of its own: the page's policy allows no script within it.
_START = f"""const place = document.getElementById("swagger-ui");
SwaggerUIBundle({{
  ...{json.dumps(_SWAGGER_UI, indent=2)},
  url: place.dataset.url,
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIBundle.SwaggerUIStandalonePreset],
}});
"""
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="{root}{assets}/swagger-ui.css">
<link rel="icon" href="{root}{assets}/favicon.png"></head>
<body><div id="swagger-ui" data-url="{root}{document}"></div>
<script src="{root}{assets}/swagger-ui-bundle.js"></script>
<script src="{root}{script}"></script></body></html>
"""


router = served_router(in_document=False)
"""``/docs`` and what it loads: its script, and the files in the package fastapi-offline."""

router.mount(_ASSETS, StaticFiles(packages=[("fastapi_offline", "static")]))


@router.get("/docs")
async def _docs_page(request: Request, root_path: RootPath) -> Response:
    page = _PAGE.format(
        title=request.app.title,
        root=escape(root_path),
        assets=_ASSETS,
        document=request.app.openapi_url,
        script=_SCRIPT,
    )
    return HTMLResponse(page, headers={"Content-Security-Policy": PAGE_POLICY})


@router.get(_SCRIPT)
async def _docs_script() -> Response:
    return Response(_START, media_type="text/javascript")
