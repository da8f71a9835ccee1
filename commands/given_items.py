"""The items of a request's `input` as the client gave them."""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from commands.bodies import new_item
from domain.commands import NewItem
from infrastructure.http.errors import ApiError


class ItemReference(Struct, frozen=True):
    """A reference to an item. `param`: where it stands in the request."""

    item_id: str
    param: str


GivenItem = NewItem | ItemReference


def given_items(input_items: Sequence[Any]) -> tuple[GivenItem, ...]:
    """The items with new ids, and the references. Raises ApiError (400, 413)."""
    return tuple(_given_item(item, f"input[{index}]") for index, item in enumerate(input_items))


def _given_item(item: Any, param: str) -> GivenItem:
    if not _is_reference(item):
        return new_item(item, param)
    item_id = item.get("id")
    if not isinstance(item_id, str) or not item_id:
        message = f"Invalid `{param}.id`: a reference needs the `id` of an item, a string."
        raise ApiError(400, message, code="invalid_value", param=f"{param}.id")
    return ItemReference(item_id, param)


def _is_reference(item: Any) -> bool:
    """Clients send an image generation call with nothing but its id, so that the model continues with that image."""
    if not isinstance(item, dict):
        return False
    kind = item.get("type")
    if kind is None:
        return item.keys() - {"type"} == {"id"}
    return kind == "item_reference" or (kind == "image_generation_call" and item.keys() == {"type", "id"})
