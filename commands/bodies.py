"""Parts that several request bodies share."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from commands.item_links import LINKING, linked
from domain.commands import NewItem
from domain.items import InvalidItem, as_stored, checked_item, id_prefix, type_of, without_listed_fields
from infrastructure.http.errors import ApiError
from infrastructure.http.item_schemas import InputItemJson
from infrastructure.ids import mint
from infrastructure.tenant_defaults import PolicyFields

MAX_ITEMS = 20
MAX_ITEM_BYTES = 1024 * 1024
"""As JSON text."""

MAX_METADATA_PAIRS = 16
MAX_SHORT_TEXT_LENGTH = 512
MAX_INSTRUCTIONS_LENGTH = 262_144

MetadataKey = Annotated[str, StringConstraints(min_length=1, max_length=64)]
MetadataValue = Annotated[str, StringConstraints(max_length=512)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Field(max_length=MAX_METADATA_PAIRS)]
Title = Annotated[str, StringConstraints(max_length=MAX_SHORT_TEXT_LENGTH)]
Instructions = Annotated[str, StringConstraints(max_length=MAX_INSTRUCTIONS_LENGTH)]
Items = Annotated[
    list[InputItemJson], Field(max_length=MAX_ITEMS, description="Items of the Responses API, at most 20.")
]


class Body(BaseModel):
    """A request's body. Wrong types and unknown fields are refused; nothing is converted."""

    model_config = ConfigDict(strict=True, extra="forbid")


def examples(*bodies: dict[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [*bodies]})


class Policy(PolicyFields):
    """Which items of a conversation are sent to the model, and what happens to a reply that is stopped or loses its client.

    `budget`: the most tokens that are sent. `reserve`: the tokens that are kept free for the answer. `strategy`:
    whether older items are left out or summarized. `window`, `refill`: at which item the sent history begins.
    `stopped`: what happens to a stopped reply. `on_disconnect`: what happens when the client disconnects. An absent
    field has the tenant's default.
    """


def new_items(items: list[Any]) -> tuple[NewItem, ...]:
    """The items with new ids. Links between these items are changed. Raises ApiError (400, 413)."""
    new = tuple(new_item(item, f"items[{index}]") for index, item in enumerate(items))
    return linked(new) if any(type_of(item) in LINKING for item in items) else new


def new_item(item: Any, param: str) -> NewItem:
    """Raises ApiError (400, 413) if the item cannot be stored."""
    try:
        checked = checked_item(item)
    except InvalidItem as error:
        invalid_param = f"{param}.{error.param}" if error.param else param
        message = f"Invalid `{invalid_param}`: {error}"
        raise ApiError(400, message, code="invalid_value", param=invalid_param) from error
    stored = as_stored(without_listed_fields(checked))
    if len(stored) > MAX_ITEM_BYTES:
        message = f"`{param}` is larger than {MAX_ITEM_BYTES} bytes."
        raise ApiError(413, message, code="item_too_large", param=param)
    return NewItem(item_id=mint(id_prefix(checked)), item=stored)
