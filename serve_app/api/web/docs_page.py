"""The page that shows the API to people: Swagger UI, served from here, so that no internet is needed."""

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from serve_app.api.http.parameters import RootPath

_ASSETS = "/docs/assets"
_SWAGGER_UI = {
    "docExpansion": "list",
    # The schema has each field's bounds and example, the body's own example only what is required.
    "defaultModelRendering": "model",
    "defaultModelExpandDepth": 3,
    "defaultModelsExpandDepth": -1,
    # Or a badge asks validator.swagger.io for its opinion of the document.
    "validatorUrl": None,
}


def install_docs(api: FastAPI) -> None:
    """Serve ``/docs`` and what it loads: the files in the package fastapi-offline, and no others."""
    api.mount(_ASSETS, StaticFiles(packages=[("fastapi_offline", "static")]))

    @api.get("/docs", include_in_schema=False)
    async def docs_page(root_path: RootPath) -> Response:
        return get_swagger_ui_html(
            openapi_url=f"{root_path}{api.openapi_url}",
            title=api.title,
            swagger_js_url=f"{root_path}{_ASSETS}/swagger-ui-bundle.js",
            swagger_css_url=f"{root_path}{_ASSETS}/swagger-ui.css",
            swagger_favicon_url=f"{root_path}{_ASSETS}/favicon.png",
            swagger_ui_parameters=_SWAGGER_UI,
        )
