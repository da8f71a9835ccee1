"""Ids in a path: one of the wrong form is malformed (400), before anything is looked up.

Dependencies are coroutines though they await nothing: FastAPI would run plain functions in a thread each.
"""

from typing import Annotated

from fastapi import Depends, Path, Request

from infrastructure.access.principal import DEFAULT, Principal
from infrastructure.http.errors import ApiError
from infrastructure.ids import CONVERSATION, RESPONSE, is_id


async def conversation_id(conversation_id: Annotated[str, Path(description="`conv_…`")]) -> str:
    return checked(conversation_id, CONVERSATION, "conversation_id")


async def response_id(response_id: Annotated[str, Path(description="`resp_…`")]) -> str:
    return checked(response_id, RESPONSE, "response_id")


async def item_id(item_id: Annotated[str, Path(description="`msg_…`, or the prefix of another type of item")]) -> str:
    return checked(item_id, None, "item_id")


def checked(ident: str, prefix: str | None, param: str) -> str:
    """The id, when it has the form of one. Raises ApiError (400)."""
    if not is_id(ident, prefix):
        form = f"{prefix or 'msg'}_ and 32 hexadecimal digits"
        raise ApiError(400, f"`{param}` is not an id of this store, such as {form}.", code="invalid_id", param=param)
    return ident


async def principal(_: Request) -> Principal:
    """Who asks: until access control is built, the one fixed principal."""
    return DEFAULT


ConversationId = Annotated[str, Depends(conversation_id)]
ResponseId = Annotated[str, Depends(response_id)]
ItemId = Annotated[str, Depends(item_id)]
Asking = Annotated[Principal, Depends(principal)]
