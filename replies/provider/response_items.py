"""The output items of `/responses`."""

import uuid
from collections.abc import Callable
from typing import Any

import msgspec

from domain.content_references import references
from domain.items import Item, checked_item, type_of
from replies.provider.failures import invalid_answer
from replies.provider.json_text import clean_value
from replies.provider.ordered_items import PartText
from replies.stream_events import may_have, new_part, parts_of, text_field


def storable_item(provider_item: Any) -> Item:
    """The item without its id and log probabilities, with clean texts. Adds what a message or a call lacks. Raises
    ModelFailed, or ValueError.
    """
    if not isinstance(provider_item, dict):
        raise invalid_answer()
    item: Item = clean_value({name: value for name, value in provider_item.items() if name != "id"})
    if type_of(item) == "message":
        item["role"] = "assistant"
        content = item.get("content") or []
        item["content"] = [new_part("output_text", content)] if isinstance(content, str) else content
        if isinstance(content, list):
            item["content"] = [_without_logprobs(part) for part in content]
    elif type_of(item) == "function_call":
        call_id = item.get("call_id")
        item["call_id"] = call_id if isinstance(call_id, str) and call_id else f"call_{uuid.uuid4().hex}"
        item["arguments"] = item.get("arguments") or ""
    elif type_of(item) == "custom_tool_call":
        item["input"] = item.get("input") or ""
    encoded_size(checked_item(item))  # raises for a number that cannot be stored
    if references(item):
        raise invalid_answer()  # only this store makes references
    return item


def _without_logprobs(part: Any) -> Any:
    """Log probabilities may be many times as long as the text."""
    return {name: value for name, value in part.items() if name != "logprobs"} if isinstance(part, dict) else part


def id_of(provider_item: Any) -> str | None:
    item_id = provider_item.get("id") if isinstance(provider_item, dict) else None
    return item_id if isinstance(item_id, str) and item_id else None


def encoded_size(item: Item) -> int:
    return len(msgspec.json.encode(item))


def at_start(item: Item) -> Item:
    """The item without its streamed text. Raises ModelFailed."""
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


def parts_and_fields(item: Item) -> tuple[list[PartText], Item]:
    """The parts that have text, and the fields of the ItemDone. Raises ModelFailed."""
    fields = _BY_TYPE.get(type_of(item), _any_item)(item)
    if not may_have(item, "input"):  # the input of a custom tool is a field of its ItemDone
        return [(part.kind, part.text) for part in parts_of(item) if part.text], fields
    return [], fields


def _message(item: Item) -> Item:
    """The field `content`. Empty if the content is at most one `output_text`, without annotations."""
    content = item.get("content")
    parts = content if isinstance(content, list) else []
    if not all(isinstance(part, dict) for part in parts):
        raise invalid_answer()
    if not all(isinstance(part.part.get(text_field(part.kind)), str) for part in parts_of(item)):
        raise invalid_answer()
    plain = len(parts) <= 1 and all(part.get("type") == "output_text" and not part.get("annotations") for part in parts)
    return {} if plain else {"content": parts}


def _function_call(item: Item) -> Item:
    if not isinstance(item.get("arguments"), str):
        raise invalid_answer()
    return _without(item, "arguments", "call_id", "name", "status")


def _reasoning(item: Item) -> Item:
    empty = () if item.get("encrypted_content") else ("encrypted_content",)
    return _without(item, "content", "summary", "status", *empty)


def _any_item(item: Item) -> Item:
    return _without(item)


_BY_TYPE: dict[str, Callable[[Item], Item]] = {
    "message": _message,
    "function_call": _function_call,
    "reasoning": _reasoning,
}


def _without(item: Item, *names: str) -> Item:
    return {name: value for name, value in item.items() if value is not None and name not in ("type", *names)}
