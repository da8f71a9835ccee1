"""The page that shows the OpenAPI document (`/docs`), with its script and its style. All of it is served here: the page works offline."""

from importlib.resources import files
from typing import Final

from fastapi.openapi.docs import get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

_ASSETS: Final = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon.png": "image/png",
}
"""Files of Swagger UI, which the package `fastapi-offline` contains."""

_CACHE: Final = {"cache-control": "public, max-age=86400"}


def docs_routes(title: str) -> list[Route]:
    """`/docs`, and a route for each file that the page loads."""

    async def docs(_: Request) -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title=title,
            swagger_js_url="/docs/swagger-ui-bundle.js",
            swagger_css_url="/docs/swagger-ui.css",
            swagger_favicon_url="/docs/favicon.png",
            swagger_ui_parameters={"validatorUrl": None},
        )

    return [Route("/docs", docs), *(_asset_route(name, media_type) for name, media_type in _ASSETS.items())]


def _asset_route(name: str, media_type: str) -> Route:
    async def asset(_: Request) -> Response:
        content = (files("fastapi_offline") / "static" / name).read_bytes()
        return Response(content, media_type=media_type, headers=_CACHE)

    return Route(f"/docs/{name}", asset)
