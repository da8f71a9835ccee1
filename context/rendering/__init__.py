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

from context.rendering import chat_1, chat_2, responses_3
from context.rendering.parts import SUMMARY, summary_of, text_of_part
from domain.items import Item, content_parts, type_of

CHAT = 2
RESPONSES = 3

PER_MESSAGE_TOKENS = 4
"""What a message costs beside its text: its role and the marks around it."""

PER_IMAGE_TOKENS = 1_105
"""What an image is counted as: OpenAI's figure for one of 1024 x 1024 pixels in high detail, 765, and some room."""

PER_FILE_TOKENS = 2_000
"""What a file is counted as: a few pages. Nobody but the provider knows; a text's length is added."""

CIPHER_PER_TOKEN = 5
"""Characters of base64 to a token: 4 characters of text are some 5 of base64, and a cipher is no shorter than its text."""

_SPOKEN = frozenset({"input_text", "output_text", "text", "refusal"})
_NO_WORDS = frozenset({"input_image", "computer_screenshot", "input_file", "input_audio"})
"""Types of parts that `fixed_tokens` alone counts. A part of any other type may go out as it is, and is counted so."""

_UNREAD = {"computer_call_output": ("output",), "image_generation_call": ("result",)}
"""The fields of an item that are an image."""


def render(
    renderer: int,
    *,
    model: str,
    instructions: Sequence[str],
    summary: str | None,
    items: Sequence[Item],
    parameters: Mapping[str, Any],
) -> dict[str, Any]:
    """The body of the request: always streamed, with its usage. `items` that are `unsendable` are not in it.

    An unknown renderer is a ValueError.
    """
    match renderer:
        case 1:
            return chat_1.render(model, instructions, items, parameters)
        case 2:
            return chat_2.render(model, instructions, summary, items, parameters)
        case 3:
            return responses_3.render(model, instructions, summary, items, parameters)
    raise ValueError(f"No renderer {renderer}")


def unsendable(renderer: int, items: Sequence[Item]) -> dict[int, str]:
    """Which of `items` are not sent, by index, and why: `orphaned_call`, `orphaned_output`, `not_expressible`, `reasoning`."""
    match renderer:
        case 1:
            sent = ("message", "function_call", "function_call_output")
            return {index: "not_expressible" for index, item in enumerate(items) if type_of(item) not in sent}
        case 2:
            return chat_2.unsendable(items)
        case 3:
            return responses_3.unsendable(items)
    raise ValueError(f"No renderer {renderer}")


def counted_parameters(parameters: Mapping[str, Any]) -> str:
    """All the text of a request's parameters that a model reads, for counting: its tools, the form of its answer."""
    read = {name: parameters[name] for name in ("tools", "text") if parameters.get(name)}
    if "tools" in read:  # nested, as one of the APIs has them
        read["tools"] = [{"function": tool} for tool in read["tools"]]
    return msgspec.json.encode(read).decode() if read else ""


def request_sha256(body: Mapping[str, Any]) -> bytes:
    """The SHA-256 of a body, written as JSON without spaces and its names in order."""
    return hashlib.sha256(msgspec.json.encode(body, order="deterministic")).digest()


def counted_text(item: Item) -> str:
    """All the text of an item that a model reads, for counting. What is not text (images, files, ciphers) has `fixed_tokens`."""
    match type_of(item):
        case "message":
            return "\n".join(map(_words, content_parts(item)))
        case "function_call":
            return f"{item['name']}\n{item['arguments']}"
        case "custom_tool_call":
            return f"{item['name']}\n{item['input']}"
        case "function_call_output" | "custom_tool_call_output":
            output = item["output"]
            return output if isinstance(output, str) else "\n".join(map(_words, output))
        case "compaction":
            summary = summary_of(item)
            return "" if summary is None else SUMMARY + summary
        case "reasoning":
            return ""
        case _:
            unread = (*_UNREAD.get(type_of(item), ()), "id")
            return msgspec.json.encode({name: value for name, value in item.items() if name not in unread}).decode()


def fixed_tokens(item: Item) -> int:
    """What an item costs beside its text."""
    match type_of(item):
        case "message":
            return PER_MESSAGE_TOKENS + sum(map(_part_tokens, content_parts(item)))
        case "function_call_output" | "custom_tool_call_output" if isinstance(item["output"], list):
            return PER_MESSAGE_TOKENS + sum(map(_part_tokens, item["output"]))
        case "reasoning":
            cipher = item.get("encrypted_content")
            return PER_MESSAGE_TOKENS + len(cipher) // CIPHER_PER_TOKEN if isinstance(cipher, str) else 0
        case "computer_call_output" | "image_generation_call":
            return PER_MESSAGE_TOKENS + PER_IMAGE_TOKENS
        case _:
            return PER_MESSAGE_TOKENS


def _words(part: Any) -> str:
    """All the text that is sent of a part."""
    text = text_of_part(part)
    kind = str(part.get("type")) if isinstance(part, dict) else ""
    if kind in _SPOKEN and text is not None:
        return text
    if kind in _NO_WORDS:
        return "\n".join(str(each) for each in (text, part.get("filename")) if each)
    return msgspec.json.encode(part).decode()


def _part_tokens(part: Any) -> int:
    if not isinstance(part, dict):
        return 0
    if part.get("type") == "input_audio":
        return PER_FILE_TOKENS
    if part.get("type") in ("input_image", "computer_screenshot"):
        return PER_IMAGE_TOKENS
    if part.get("type") == "input_file":
        data = part.get("file_data")
        is_text = isinstance(data, str) and data.startswith(("data:text/", "data:application/json"))
        return PER_FILE_TOKENS + (len(data) // CIPHER_PER_TOKEN if is_text and isinstance(data, str) else 0)
    return 0
