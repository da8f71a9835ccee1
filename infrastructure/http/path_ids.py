"""Ids in a path, in a body or in a parameter: a malformed one is a 400, before anything is looked up."""

import re
from collections.abc import Mapping, Sequence

from infrastructure.http.errors import ApiError
from infrastructure.ids import CONVERSATION, RESPONSE, is_id

_PREFIXES = {"conversation_id": CONVERSATION, "item_id": None, "response_id": RESPONSE}
"""The id prefix for each path parameter. None: an item's prefix depends on its type."""


def id_names(path: str) -> list[str]:
    """The names of the ids in a route's path, in order: `["conversation_id"]` of `/v1/conversations/{conversation_id}`."""
    return re.findall(r"{(\w+)}", path)


def path_ids(path_params: Mapping[str, str], names: Sequence[str]) -> list[str]:
    """The ids of these names. Raises ApiError (400) for the first that is malformed."""
    return [check_id(path_params[name], _PREFIXES[name], name) for name in names]


def check_id(text: str, prefix: str | None, param: str) -> str:
    """Returns the id unchanged. Raises ApiError (400), which names `param`, if it is malformed."""
    if not is_id(text, prefix):
        example = f"{prefix or 'msg'}_ followed by 32 hexadecimal digits"
        raise ApiError(
            400, f"`{param}` does not have the form of an id, such as {example}.", code="invalid_id", param=param
        )
    return text
