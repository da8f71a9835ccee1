"""Finds out which abilities of the model a provider's refusal names.

The patterns come from the messages of OpenAI, Anthropic, Mistral, DeepSeek, OpenRouter, Groq, Ollama, llama.cpp, LM
Studio and vLLM.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from domain.errors import RefusedRequest

MAX_READ_CHARACTERS = 300
"""The rest of a message is not read, because it may repeat the request."""

_NOT_REFUSALS: Final = (401, 403, 408, 429)
_OUTAGES: Final = (502, 503, 504)

_NAMES: Final = {
    "image": re.compile(r"image|vision|multi-?modal|mmproj"),
    "file": re.compile(r"(?<![a-z])files?(?![a-z])|(?<![a-z])pdf|document"),
    "audio": re.compile(r"audio"),
    "tools": re.compile(r"tool|function|arguments"),
    "custom_tools": re.compile(r"custom"),
    "other_items": re.compile(r"item|_call"),
    "reasoning": re.compile(r"reasoning|encrypted"),
}
_LACKS: Final = re.compile(
    r"(not|n't) (currently )?(support|accept|take|have|handle)|not (currently )?(supported|enabled|allowed|a multi-?modal)"
    r"|only supported by|found that support|at most 0|unknown variant|missing data required"
)
_ONE_BAD_PART: Final = re.compile(
    r"format|media type|mime|(?<!\w)urls?(?!\w)|file_(id|url)|download|fetch|decode|corrupt|exceed|too (large|big|many|long)|size|resolution|page"
)
"""Words about one bad image or file. The model may still take other images or files."""

_LEARNABLE: Final = ("image", "file", "audio", "tools", "custom_tools")


def refusal(status: int | None, message: str) -> RefusedRequest | None:
    """Returns None if the failure is not a refusal. `status` is None if the error came in the stream.

    Errors in the stream, 404 and 5xx may have other causes. Such errors count only if the message names an ability.
    """
    if status in _NOT_REFUSALS or status in _OUTAGES:
        return None
    read = message[:MAX_READ_CHARACTERS].lower()
    mentions = frozenset(name for name, pattern in _NAMES.items() if pattern.search(read))
    if not mentions and (status is None or status == 404 or status >= 500):
        return None
    lacks_words = _LACKS.search(read)
    if lacks_words is None or _ONE_BAD_PART.search(read):
        return RefusedRequest(mentions)
    lacks = mentions.intersection(_LEARNABLE)
    return RefusedRequest(mentions, lacks - {"tools"} if "custom_tools" in lacks else lacks, lacks_words[0])


def without_quoted_abilities(refused: RefusedRequest, body: Mapping[str, Any]) -> RefusedRequest:
    """Drops `lacks` if the request contains the `lacks_words`, because the provider may only repeat the request."""
    if refused.lacks and refused.lacks_words in msgspec.json.encode(body).decode().lower():
        return RefusedRequest(refused.mentions)
    return refused
