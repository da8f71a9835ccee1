"""Chat messages for random walks: what messages mean, and the shapes in which clients send them. Pure."""

import base64
import hashlib
import json
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from domain.content_references import Slot, inline_reference, reference_of, split_data_uri, with_slots
from domain.items import Item

TENANT = "acme"
Json = dict[str, Any]

Meaning = tuple[str, ...]
"""The kind of an item, and what must be equal in equal items."""

_THOUGHTS = re.compile(r"<think>.*?</think>", re.DOTALL)


def meanings(messages: Iterable[Json]) -> list[Meaning]:
    """The meaning of each item. Each tool call of a message is an item. The text of a message is another item."""
    return [meaning for message in messages for meaning in _meanings_of(message)]


def _meanings_of(message: Json) -> list[Meaning]:
    role = message["role"]
    if role == "tool":
        return [("output", message["tool_call_id"], _text(message["content"]).strip())]
    if role != "assistant":
        return [("message", role, *_parts(message["content"]))]
    text = answer_text(_text(message.get("content") or ""))
    calls = [_call(call["id"], **call["function"]) for call in message.get("tool_calls") or ()]
    return [*([("message", "assistant", text)] if text or not calls else []), *calls]


def meaning_of_item(item: Item) -> Meaning | None:
    """None for reasoning and for an empty answer text, which are not compared."""
    match item.get("type", "message"):
        case "message" if item["role"] == "assistant":
            text = answer_text(_text(item["content"]))
            return ("message", "assistant", text) if text else None
        case "message":
            return ("message", item["role"], *_parts(item["content"]))
        case "function_call":
            return _call(item["call_id"], item["name"], item["arguments"])
        case "function_call_output":
            return ("output", item["call_id"], _text(item["output"]).strip())
        case "reasoning":
            return None
        case other:
            raise AssertionError(f"a walk sends nothing that becomes an item of type {other}")


def answer_text(text: str) -> str:
    """An answer's text without thoughts, and without whitespace at its ends."""
    return _THOUGHTS.sub("", text).strip()


def _call(call_id: str, name: str, arguments: str) -> Meaning:
    return ("call", call_id, name, json.dumps(json.loads(arguments), sort_keys=True))


def _text(content: str | list[Json]) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def _parts(content: str | list[Json]) -> list[str]:
    """The parts with their kinds, so that a text never equals an image."""
    if isinstance(content, str):
        return ["text", content.strip()]
    if len(content) == 1 and "text" in content[0]:
        return ["text", content[0]["text"].strip()]
    return [word for part in content for word in (("text", part["text"]) if "text" in part else ("image", _url(part)))]


def as_shown(value: Any) -> Any:
    """Sent messages, or a body, with the id of an image in place of its data."""

    def named(slot: Slot) -> Mapping[str, Any]:
        return slot.owner if split_data_uri(slot.text) is None else {**slot.owner, slot.name: _shown_url(slot.text)}

    return with_slots(value, named)


def _url(part: Json) -> str:
    """Gives one text for an image's data, for the store's reference to the data, and for the id that clients get."""
    if "file_id" in part:
        return str(part["file_id"])
    image = part["image_url"]
    return _shown_url(image["url"] if isinstance(image, dict) else image)


def _shown_url(url: str) -> str:
    if (reference := reference_of(url)) is not None:
        return reference.file_id
    if (sent := split_data_uri(url)) is None:
        return url
    label, encoded = sent
    data = base64.b64decode(encoded)
    return inline_reference(TENANT, hashlib.sha256(data).digest(), len(data), label).file_id


# Each shape returns a message with the same meaning.


def with_nulls(message: Json) -> Json:
    """Some libraries send null for each field without a value."""
    empty: Json = {"name": None} if message["role"] != "tool" else {}
    if message["role"] == "assistant":
        empty |= {"refusal": None, "audio": None, "function_call": None, "tool_calls": None}
    return {**empty, **message}


def with_parts(message: Json) -> Json:
    content = message.get("content")
    return (
        {**message, "content": [{"type": "text", "text": content}]} if isinstance(content, str) and content else message
    )


def trimmed(message: Json) -> Json:
    content = message.get("content")
    return {**message, "content": content.strip()} if isinstance(content, str) and content.strip() else message


def spaced(message: Json) -> Json:
    content = message.get("content")
    return {**message, "content": f"\n{content} "} if isinstance(content, str) and content else message


def without_thoughts(message: Json) -> Json:
    content = message.get("content")
    if message["role"] != "assistant" or not isinstance(content, str) or not answer_text(content):
        return message
    return {**message, "content": _THOUGHTS.sub("", content)}


def with_thoughts(message: Json) -> Json:
    """Some interfaces put the reasoning into the text."""
    content = message.get("content")
    if message["role"] != "assistant" or not isinstance(content, str) or not content:
        return message
    return {**message, "content": f"<think>\nwell\n</think>\n\n{content}"}


def in_another_order(message: Json) -> Json:
    return json.loads(json.dumps(dict(reversed(message.items())))) if message else message


def with_empty_content(message: Json) -> Json:
    return {**message, "content": ""} if message.get("tool_calls") and not message.get("content") else message


def without_content(message: Json) -> Json:
    if message.get("tool_calls") and not message.get("content"):
        return {name: value for name, value in message.items() if name != "content"}
    return message


def with_names_of_the_sdk(message: Json) -> Json:
    """The official SDK dumps an answer with these fields."""
    return {**message, "refusal": None, "annotations": []} if message["role"] == "assistant" else message


def with_spaced_arguments(message: Json) -> Json:
    """Some libraries parse the arguments and write them again."""
    calls = message.get("tool_calls")
    if not calls:
        return message
    written = [json.dumps(json.loads(call["function"]["arguments"]), indent=1) for call in calls]
    functions = [{**call["function"], "arguments": text} for call, text in zip(calls, written, strict=True)]
    return {**message, "tool_calls": [{**call, "function": f} for call, f in zip(calls, functions, strict=True)]}


Shape = Callable[[Json], Json]

SHAPES: Sequence[Shape] = (
    with_nulls,
    with_parts,
    trimmed,
    spaced,
    without_thoughts,
    with_thoughts,
    in_another_order,
    with_empty_content,
    without_content,
    with_names_of_the_sdk,
    with_spaced_arguments,
)


def reshaped(messages: Sequence[Json], rng: random.Random) -> list[Json]:
    return [_shaped(message, rng) for message in messages]


def _shaped(message: Json, rng: random.Random) -> Json:
    for shape in rng.sample(SHAPES, rng.randint(0, 2)):
        message = shape(message)
    return message
