"""The OpenAPI document: what routes add to it, and the documents of both APIs as one.

The gateway serves the combined document; `scripts.openapi` writes it to the file that nginx serves.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from fastapi.openapi.docs import get_swagger_ui_html
from pydantic import BaseModel
from starlette.responses import HTMLResponse

TITLE = "Conversation Store"


def parameters(
    path: Iterable[str], headers: Mapping[str, str], query: type[BaseModel] | None = None
) -> list[dict[str, Any]]:
    """An operation's parameters: names in the path, headers with their descriptions, and the fields of a query model."""
    string = {"type": "string"}
    properties = _inlined(query.model_json_schema())["properties"] if query is not None else {}
    return [
        *({"name": name, "in": "path", "required": True, "schema": string} for name in path),
        *({"name": name, "in": "query", "required": False, "schema": schema} for name, schema in properties.items()),
        *(
            {"name": name, "in": "header", "schema": string, "description": description}
            for name, description in headers.items()
        ),
    ]


def request_body(model: type[BaseModel], *, required: bool) -> dict[str, Any]:
    """An operation's JSON body."""
    return {"required": required, "content": {"application/json": {"schema": _inlined(model.model_json_schema())}}}


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with every `$ref` replaced by its definition, since an operation cannot contain definitions."""
    definitions = schema.pop("$defs", {})

    def inline(value: Any) -> Any:
        if isinstance(value, dict):
            if (name := value.get("$ref")) is not None:
                return inline(definitions[name.rpartition("/")[2]])
            return {key: inline(inner) for key, inner in value.items()}
        return [inline(inner) for inner in value] if isinstance(value, list) else value

    inlined: dict[str, Any] = inline(schema)
    return inlined


def combined(*documents: Mapping[str, Any]) -> dict[str, Any]:
    """Combines documents into one. A path that is in several of them gets the methods of all."""
    merged: dict[str, Any] = {}
    for document in documents:
        if not merged:
            merged = {**document, "info": {**document["info"], "title": TITLE}, "paths": {}, "components": {}}
        for path, operations in document["paths"].items():
            merged["paths"].setdefault(path, {}).update(operations)
        for component_type, components in document.get("components", {}).items():
            merged["components"].setdefault(component_type, {}).update(components)
    return merged


def docs_page() -> HTMLResponse:
    """The HTML page that shows the document."""
    return get_swagger_ui_html(openapi_url="/openapi.json", title=TITLE)
