"""The output items of `/responses`: which fields an item has when it starts, and which its complete form adds."""

import uuid
from collections.abc import Callable
from typing import Any

import msgspec

from domain.items import Item, checked_item, type_of
from replies.provider.failures import invalid_answer


def storable_item(provider_item: Any) -> Item:
    """The item without its id and without NUL, which Postgres cannot store. Raises ModelFailed, or ValueError."""
    if not isinstance(provider_item, dict):
        raise invalid_answer()
    item: Item = _without_nul({name: value for name, value in provider_item.items() if name != "id"})
    if type_of(item) == "message":
        item["role"] = "assistant"
        item["content"] = item.get("content") or []
    elif type_of(item) == "function_call":
        call_id = item.get("call_id")
        item["call_id"] = call_id if isinstance(call_id, str) and call_id else f"call_{uuid.uuid4().hex}"
        item["arguments"] = item.get("arguments") or ""
    elif type_of(item) == "custom_tool_call":
        item["input"] = item.get("input") or ""
    encoded_size(checked_item(item))  # raises for what is not JSON text, such as half a surrogate pair
    return item


def id_of(provider_item: Any) -> str | None:
    item_id = provider_item.get("id") if isinstance(provider_item, dict) else None
    return item_id if isinstance(item_id, str) and item_id else None


def encoded_size(item: Item) -> int:
    """Bytes of the item as JSON."""
    return len(msgspec.json.encode(item))


def at_start(item: Item) -> Item:
    """The item in its ItemStarted: without what is streamed later. Raises ModelFailed."""
    item_type = type_of(item)
    match item_type:
        case "message":
            started: Item = {"type": item_type, "role": "assistant"}
            if isinstance(item.get("phase"), str):
                started["phase"] = item["phase"]
            return started
        case "function_call":
            if not isinstance(item.get("name"), str):
                raise invalid_answer()
            call_id = item.get("call_id") or f"call_{uuid.uuid4().hex}"
            return {"type": item_type, "call_id": call_id, "name": item["name"]}
        case "reasoning":
            return {"type": item_type}
        case _:
            return item


def text_and_fields(item: Item) -> tuple[str, Item]:
    """A complete item's whole text, and the fields of its ItemDone. Raises ModelFailed."""
    return _BY_TYPE.get(type_of(item), _any_item)(item)


def _message(item: Item) -> tuple[str, Item]:
    """The fields have `content` only where it is more than a plain text: several parts, annotations, or a refusal."""
    content = item.get("content")
    parts = content if isinstance(content, list) else []
    if not all(isinstance(part, dict) and isinstance(_text(part), str) for part in parts):
        raise invalid_answer()
    text = "".join(map(_text, parts))
    plain = len(parts) <= 1 and all(part.get("type") == "output_text" and not part.get("annotations") for part in parts)
    fields: Item = {} if plain else {"content": parts}
    if isinstance(item.get("phase"), str):
        fields["phase"] = item["phase"]
    return text, fields


def _function_call(item: Item) -> tuple[str, Item]:
    arguments = item.get("arguments")
    if not isinstance(arguments, str):
        raise invalid_answer()
    return arguments, _without(item, "arguments", "call_id", "name", "status")


def _reasoning(item: Item) -> tuple[str, Item]:
    """The fields are the summary and, where it is not empty, `encrypted_content`."""
    content = item.get("content")
    parts = content if isinstance(content, list) else []
    text = "".join(str(part.get("text") or "") for part in parts if isinstance(part, dict))
    empty = () if item.get("encrypted_content") else ("encrypted_content",)
    return text, _without(item, "content", "status", *empty)


def _any_item(item: Item) -> tuple[str, Item]:
    return "", _without(item)


_BY_TYPE: dict[str, Callable[[Item], tuple[str, Item]]] = {
    "message": _message,
    "function_call": _function_call,
    "reasoning": _reasoning,
}


def _without(item: Item, *names: str) -> Item:
    return {name: value for name, value in item.items() if value is not None and name not in ("type", *names)}


def _text(part: Item) -> Any:
    return part.get("refusal") if part.get("type") == "refusal" else part.get("text")


def _without_nul(value: Any) -> Any:
    match value:
        case str():
            return value.replace("\0", "")
        case dict():
            return {_without_nul(name): _without_nul(member) for name, member in value.items()}
        case list():
            return [_without_nul(member) for member in value]
        case _:
            return value
