"""The page `/docs`. It works offline."""

import hashlib
import re
from base64 import b64encode
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
"""From the package `fastapi-offline`."""

_CACHE: Final = {"cache-control": "public, max-age=86400"}


def docs_routes(title: str) -> list[Route]:
    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title=title,
        swagger_js_url="/docs/swagger-ui-bundle.js",
        swagger_css_url="/docs/swagger-ui.css",
        swagger_favicon_url="/docs/favicon.png",
        swagger_ui_parameters={"validatorUrl": None},
    )
    headers = {"content-security-policy": _policy(bytes(page.body)), "cross-origin-opener-policy": "same-origin"}

    async def docs(_: Request) -> HTMLResponse:
        return HTMLResponse(page.body, headers=headers)

    return [Route("/docs", docs), *(_asset_route(name, media_type) for name, media_type in _ASSETS.items())]


def _policy(page: bytes) -> str:
    """The page loads from this store only, and runs only its own scripts."""
    hashes = [
        b64encode(hashlib.sha256(script).digest()).decode()
        for script in re.findall(b"<script>(.*?)</script>", page, re.DOTALL)
    ]
    scripts = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _asset_route(name: str, media_type: str) -> Route:
    async def asset(_: Request) -> Response:
        content = (files("fastapi_offline") / "static" / name).read_bytes()
        return Response(content, media_type=media_type, headers=_CACHE)

    return Route(f"/docs/{name}", asset)
