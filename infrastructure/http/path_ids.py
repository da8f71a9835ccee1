"""Checks the form of ids before anything is looked up."""

import re
from collections.abc import Sequence

from starlette.exceptions import HTTPException
from starlette.requests import Request

from infrastructure.http.errors import ApiError
from infrastructure.http.served_paths import template_of
from infrastructure.ids import CONVERSATION, FILE, KEY, beginning, is_id, response_id_of

_PREFIXES = {"conversation_id": CONVERSATION, "item_id": None, "key_id": KEY, "file_id": FILE}
"""None: an item's prefix depends on its type."""

_REPLIES = {"response_id": "resp_", "completion_id": "chatcmpl-"}
"""Each parameter accepts both forms, because both name the same record."""

_NOT_IDS = frozenset({"model_id"})
"""Path parameters that are not ids of this store. Any text is allowed."""


def id_names(path: str) -> list[str]:
    """`["conversation_id"]` for `/v1/conversations/{conversation_id}`."""
    return re.findall(r"{(\w+)(?::path)?}", path)


def id_pattern(name: str) -> str | None:
    """A regular expression; None if any text is allowed."""
    if name in _REPLIES:
        return f"^({'|'.join(_REPLIES.values())})[0-9a-f]{{32}}$"
    return None if name in _NOT_IDS else f"^{beginning(_PREFIXES[name] or '[a-z]{1,12}')}[0-9a-f]{{32}}$"


def path_ids(request: Request, names: Sequence[str]) -> list[str]:
    """The ids in the request's path. A chat completion's id becomes the response's id. Raises ApiError (400).

    Raises HTTPException (405) if the path is a served path without ids.
    """
    try:
        return [_path_id(request.path_params[name], name) for name in names]
    except ApiError:
        if "{" not in (template_of(request.scope["path"]) or "{"):
            # Another route serves this path, such as `/v1/responses/compact`.
            raise HTTPException(405) from None
        raise


def _path_id(text: str, name: str) -> str:
    if name in _REPLIES:
        return check_reply_id(text, name)
    return text if name in _NOT_IDS else check_id(text, _PREFIXES[name], name)


def check_reply_id(text: str, param: str) -> str:
    """The response's id, from an id of either form. Raises ApiError (400)."""
    response_id = response_id_of(text)
    if response_id is None:
        raise _malformed(param, _REPLIES.get(param, _REPLIES["completion_id"]))
    return response_id


def check_id(text: str, prefix: str | None, param: str) -> str:
    """Raises ApiError (400) if the id is malformed."""
    if not is_id(text, prefix):
        raise _malformed(param, beginning(prefix or "msg"))
    return text


def _malformed(param: str, beginning: str) -> ApiError:
    example = f"{beginning} followed by 32 lowercase hexadecimal digits"
    return ApiError(
        400, f"`{param}` does not have the form of an id, such as {example}.", code="invalid_id", param=param
    )
