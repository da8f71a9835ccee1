"""A conversation as a provider is sent it. Each renderer has a version that is on record, and never changes again.

    1  chat_1       `/chat/completions`, as it was first
    2  chat_2       `/chat/completions`
    3  responses_3  `/responses`

What a renderer can not express is not sent, and named (`unsendable`). Pure; golden tests hold every renderer still.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from domain.items import Item, text_of, type_of
from domain.rendering import chat_1, chat_2
from domain.rendering.orphans import orphans

CHAT = 2
RESPONSES = 3

PER_MESSAGE_TOKENS = 4
"""What a message costs beside its text: its role and the marks around it."""

PER_IMAGE_TOKENS = 1_105
"""What an image is counted as: OpenAI's figure for one of 1024 x 1024 pixels in high detail, 765, and some room."""

PER_FILE_TOKENS = 8_192
"""What a file is counted as whose bytes are not here: some ten dense pages."""


def render(
    renderer: int,
    *,
    model: str,
    instructions: Sequence[str],
    summary: str | None,
    items: Sequence[Item],
    parameters: Mapping[str, Any],
) -> dict[str, Any]:
    """The body of the request: always streamed, with its usage. `items` that are `unsendable` are not in it."""
    if renderer == 1:
        return chat_1.render(model, instructions, items, parameters)
    return chat_2.render(model, instructions, summary, items, parameters)


def unsendable(renderer: int, items: Sequence[Item]) -> dict[int, str]:
    """Which of `items` are not sent, by index, and why: `orphaned_call`, `orphaned_output`, `not_expressible`, `reasoning`."""
    if renderer == 1:
        return {}
    inexpressible = {index: "not_expressible" for index, item in enumerate(items) if not is_sent(item)}
    return {**orphans(items), **inexpressible}


def counted_parameters(parameters: Mapping[str, Any]) -> str:
    """All the text of a request's parameters that a model reads, for counting: its tools, the form of its answer."""
    read = {name: parameters[name] for name in ("tools", "text") if parameters.get(name)}
    return msgspec.json.encode(read).decode() if read else ""


def request_sha256(body: Mapping[str, Any]) -> bytes:
    """The SHA-256 of a body, written as JSON without spaces and its names in order."""
    return hashlib.sha256(msgspec.json.encode(body, order="deterministic")).digest()


def counted_text(item: Item) -> str:
    """All the text of an item that is sent, for counting."""
    match type_of(item):
        case "message":
            return text_of(item)
        case "function_call":
            return f"{item['name']}\n{item['arguments']}"
        case "function_call_output":
            return _output_text(item)
        case _:
            return ""


def fixed_tokens(item: Item) -> int:
    """What an item costs beside its text, whatever type it is.

    An image is PER_IMAGE_TOKENS wherever it stands. A file is counted as what its base64 text stands for at 3 bytes a token, which
    is more than text takes; one that is only named, by id or URL, as PER_FILE_TOKENS.
    """
    return PER_MESSAGE_TOKENS + sum(_part_tokens(part) for part in _parts(item))


def _part_tokens(part: Mapping[str, Any]) -> int:
    match part.get("type"):
        case "input_image":
            return PER_IMAGE_TOKENS
        case "input_file":
            data = part.get("file_data")
            return len(data) // 4 if isinstance(data, str) else PER_FILE_TOKENS
        case _:
            return 0


def _parts(item: Item) -> Sequence[Mapping[str, Any]]:
    """The parts that a message, or a tool's output, is made of."""
    parts = item.get("content") if type_of(item) == "message" else item.get("output")
    return [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []


def is_sent(item: Item) -> bool:
    """Whether a renderer may send the item at all."""
    return type_of(item) in ("message", "function_call", "function_call_output")


def _output_text(item: Item) -> str:
    output = item["output"]
    if isinstance(output, str):
        return output
    return "\n".join(str(part.get("text") or "") for part in output if isinstance(part, dict))
