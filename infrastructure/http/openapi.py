"""One OpenAPI document for both sides, so that a client sees one API. The gateway serves it; `scripts.openapi` writes it."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse

TITLE = "Conversation Store"


def both_sides(*apps: FastAPI) -> dict[str, Any]:
    """The OpenAPI of the apps together: a path that several serve has the methods of all."""
    merged: dict[str, Any] = {}
    for app in apps:
        described = app.openapi()
        if not merged:
            merged = {**described, "info": {**described["info"], "title": TITLE}, "paths": {}, "components": {}}
        for path, operations in described["paths"].items():
            merged["paths"].setdefault(path, {}).update(operations)
        for kind, named in described.get("components", {}).items():
            merged["components"].setdefault(kind, {}).update(named)
    return merged


def docs_page() -> HTMLResponse:
    """The page that shows it."""
    return get_swagger_ui_html(openapi_url="/openapi.json", title=TITLE)
