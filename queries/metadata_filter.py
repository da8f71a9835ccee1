"""The filter `metadata[key]=value` of a list. Documents have their metadata as [name, value] pairs, with an index."""

import re
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import QueryParams

from infrastructure.http.errors import ApiError
from projections.views.writes import Document

MAX_METADATA_KEYS = 16
_PARAMETER = re.compile(r"metadata\[(.+)\]", re.DOTALL)


def metadata_parameter(things: str) -> dict[str, Any]:
    return {
        "name": "metadata",
        "in": "query",
        "style": "deepObject",
        "explode": True,
        "description": f"`metadata[key]=value`, any number of them: only {things} whose metadata has all these pairs.",
        "schema": {"type": "object", "maxProperties": MAX_METADATA_KEYS, "additionalProperties": {"type": "string"}},
    }


def is_metadata_parameter(name: str) -> bool:
    return _PARAMETER.fullmatch(name) is not None


def metadata_filter(query: QueryParams) -> Mapping[str, str]:
    """Raises ApiError (400) for a NUL in a key, or too many keys."""
    pairs: dict[str, str] = {}
    for name, value in query.multi_items():
        if (match := _PARAMETER.fullmatch(name)) is not None:
            pairs[match[1]] = value
    for name in pairs:
        if "\0" in name:
            raise ApiError(400, "A key of `metadata` contains a NUL character.", code="invalid_value", param="metadata")
    if len(pairs) > MAX_METADATA_KEYS:
        raise ApiError(400, f"`metadata` has at most {MAX_METADATA_KEYS} keys.", code="invalid_value", param="metadata")
    return pairs


def with_metadata(pairs: Mapping[str, str]) -> Document:
    if not pairs:
        return {}
    return {"$and": [{"metadata": {"$elemMatch": {"$eq": list(pair)}}} for pair in pairs.items()]}
