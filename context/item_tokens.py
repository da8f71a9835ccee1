"""Says how the tokens of an item and of a request's parameters are estimated.

Text is returned for counting. Images, files and encrypted text get an estimate.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from context.rendering.parts import SUMMARY, summary_of, text_of_part
from domain.content_references import reference_of
from domain.items import Item, content_parts, type_of

PER_MESSAGE_TOKENS = 4

PER_IMAGE_TOKENS = 1_105
"""OpenAI counts 765 tokens for an image of 1024 x 1024 pixels in high detail. The rest is a margin."""

PER_FILE_TOKENS = 2_000
"""The tokens of a few pages. Only the provider knows the length."""

BASE64_CHARACTERS_PER_TOKEN = 5
"""A token is about 4 characters of text, so about 5 of base64.

Encrypted text is never shorter than its plain text, so the estimate is rather too high than too low.
"""

_TEXT_PARTS = frozenset({"input_text", "output_text", "text", "refusal"})
_TEXT_FILES = ("data:text/", "data:application/json")
_MEDIA_PARTS = frozenset({"input_image", "computer_screenshot", "input_file", "input_audio"})
"""Parts that `fixed_tokens` counts. Parts of unknown types may be sent unchanged, so their JSON is counted."""

_IMAGE_FIELDS = {"computer_call_output": ("output",), "image_generation_call": ("result",)}


def counted_text(item: Item) -> str:
    """The text whose tokens are counted. `fixed_tokens` estimates images, files and encrypted text."""
    match type_of(item):
        case "message":
            return "\n".join(map(_part_text, content_parts(item)))
        case "function_call":
            return f"{item['name']}\n{item['arguments']}"
        case "custom_tool_call":
            return f"{item['name']}\n{item['input']}"
        case "function_call_output" | "custom_tool_call_output":
            output = item["output"]
            return output if isinstance(output, str) else "\n".join(map(_part_text, output))
        case "compaction":
            summary = summary_of(item)
            return "" if summary is None else SUMMARY + summary
        case "reasoning":
            return ""
        case _:
            not_counted = (*_IMAGE_FIELDS.get(type_of(item), ()), "id")
            return msgspec.json.encode(
                {name: value for name, value in item.items() if name not in not_counted}
            ).decode()


def fixed_tokens(item: Item) -> int:
    """Tokens that an item has besides those of `counted_text`."""
    match type_of(item):
        case "message":
            return PER_MESSAGE_TOKENS + sum(map(_part_tokens, content_parts(item)))
        case "function_call_output" | "custom_tool_call_output" if isinstance(item["output"], list):
            return PER_MESSAGE_TOKENS + sum(map(_part_tokens, item["output"]))
        case "reasoning":
            encrypted = item.get("encrypted_content")
            return (
                PER_MESSAGE_TOKENS + len(encrypted) // BASE64_CHARACTERS_PER_TOKEN if isinstance(encrypted, str) else 0
            )
        case "computer_call_output" | "image_generation_call":
            return PER_MESSAGE_TOKENS + PER_IMAGE_TOKENS
        case _:
            return PER_MESSAGE_TOKENS


def _part_text(part: Any) -> str:
    text = text_of_part(part)
    kind = str(part.get("type")) if isinstance(part, dict) else ""
    if kind in _TEXT_PARTS and text is not None:
        return text
    if kind in _MEDIA_PARTS:
        return "\n".join(str(value) for value in (text, part.get("filename")) if value)
    return msgspec.json.encode(part).decode()


def _part_tokens(part: Any) -> int:
    if not isinstance(part, dict):
        return 0
    if part.get("type") == "input_audio":
        return PER_FILE_TOKENS
    if part.get("type") in ("input_image", "computer_screenshot"):
        return PER_IMAGE_TOKENS
    if part.get("type") == "input_file":
        return PER_FILE_TOKENS + _characters_of_text_file(part.get("file_data")) // BASE64_CHARACTERS_PER_TOKEN
    return 0


def _characters_of_text_file(data: Any) -> int:
    """The length of the file's data URI. 0 for a file that is no text."""
    if not isinstance(data, str):
        return 0
    reference = reference_of(data)
    begins, length = (data, len(data)) if reference is None else (reference.before_data, reference.inline_length)
    return length if begins.startswith(_TEXT_FILES) else 0


def counted_parameters(parameters: Mapping[str, Any]) -> str:
    """The JSON of the tools and of `text`, whose tokens are counted."""
    read = {name: parameters[name] for name in ("tools", "text") if parameters.get(name)}
    if "tools" in read:  # the form of the Chat Completions API, which is longer
        read["tools"] = [{"function": tool} for tool in read["tools"]]
    return msgspec.json.encode(read).decode() if read else ""
