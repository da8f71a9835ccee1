"""Compares a request with the last request to the same model.

A provider's prompt cache can reuse only the common beginning of both requests. So each request records a few points of
its sequence. Each point has a hash of everything before it but the tools. The sequence is: tools, instructions,
summary, pinned items, other messages.
"""

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from context.choice import ContextChoice, ReplyRequest
from context.last_requests import summary_hash
from context.selection import ContextItem
from domain.events import SentSequence, SequencePoint, SharedPrefix

TOOLS_CHANGED, CONTEXT_COMPACTED, INPUT_CHANGED = "tools_changed", "context_compacted", "input_changed"
MODEL_CHANGED, NOT_FOUND = "model_changed", "comparison_response_not_found"
"""Why a request does not begin with the whole last request.

The values come from `prompt_cache_diagnostics` (`openai/types/responses/response.py`).
"""

_SETTINGS: tuple[tuple[str, str | None, str], ...] = (
    ("tools", None, TOOLS_CHANGED),
    ("text", "format", "text_format_changed"),
    ("reasoning", "effort", "reasoning_effort_changed"),
    ("text", "verbosity", "verbosity_changed"),
    ("service_tier", None, "service_tier_changed"),
    ("prompt_cache_key", None, "prompt_cache_key_changed"),
)
"""(parameter, its field or None, reason).

If one of these changes, a cache reuses nothing. `SentSequence.settings` has the same order.
"""

_SETTING_BYTES = 4
_POINT_BYTES = 8

_encode = msgspec.json.Encoder(order="deterministic").encode


def sent_sequence(
    choice: ContextChoice,
    reply_request: ReplyRequest,
    body: Mapping[str, Any],
    body_of: Callable[[Sequence[ContextItem]], Mapping[str, Any]],
) -> tuple[SentSequence, SharedPrefix]:
    """The request's sequence, and what it shares with the last request.

    `body_of`: renders the body with other items.
    """
    recent = choice.recent
    last = recent.last_requests.get(reply_request.model)
    tokens_at = _tokens_at(choice, body, body_of)
    hashes = _hashes(body, {*tokens_at, *(point.length for point in (last.points if last else ()))})
    # The body has the key that is sent: the client's, or the store's default.
    settings = {**reply_request.parameters, "prompt_cache_key": body.get("prompt_cache_key")}
    depth = recent.items[-1].depth if recent.items else recent.summary.depth if recent.summary else 0
    sequence = SentSequence(
        depth=depth,
        first_depth=_first_depth(choice, depth),
        settings=b"".join(_setting_hashes(settings)),
        points=tuple(SequencePoint(length, tokens, hashes[length]) for length, tokens in tokens_at.items()),
        summary=summary_hash(recent.summary),
    )
    if last is None:
        return sequence, SharedPrefix(tokens=0, messages=0, reason=MODEL_CHANGED if recent.last_requests else NOT_FOUND)
    return sequence, _shared_prefix(last, sequence, hashes)


def _first_depth(choice: ContextChoice, depth: int) -> int:
    """Where the window begins.

    If the window has the whole path, the window begins right after the summary, because deleted items there may be
    restored.
    """
    window, summary = choice.selection.window, choice.recent.summary
    if choice.context_input.reaches_start and len(window) == len(choice.context_input.path):
        return summary.depth + 1 if summary else 1
    return window[0].depth if window else depth + 1


def _shared_prefix(last: SentSequence, sequence: SentSequence, hashes: Mapping[int, bytes]) -> SharedPrefix:
    for number, (_, _, reason) in enumerate(_SETTINGS):
        setting = slice(number * _SETTING_BYTES, (number + 1) * _SETTING_BYTES)
        if last.settings[setting] != sequence.settings[setting]:
            return SharedPrefix(tokens=0, messages=0, reason=reason)
    shared = [point for point in last.points if hashes.get(point.length) == point.sha256]
    reason = CONTEXT_COMPACTED if last.summary != sequence.summary else INPUT_CHANGED
    if not shared:
        return SharedPrefix(tokens=0, messages=0, reason=reason)
    longest = shared[-1]
    is_all = longest == last.points[-1]
    return SharedPrefix(tokens=longest.tokens, messages=max(0, longest.length - 1), reason=None if is_all else reason)


def _tokens_at(
    choice: ContextChoice,
    body: Mapping[str, Any],
    body_of: Callable[[Sequence[ContextItem]], Mapping[str, Any]],
) -> dict[int, int]:
    """The tokens before each point, by the number of parts before the point.

    There is a point after the tools, the instructions, the summary and the pins, and one at the end. Another point is
    before the first new turn, or before the newest turn if the input begins no turn.
    """
    sent, pins = choice.selection.sent, {pin.item_id for pin in choice.selection.pins}
    parts = _parts(body)
    base_tokens = choice.context_input.base_tokens
    after_instructions = 2 if "messages" in body and choice.instructions else 1
    after_summary = after_instructions + (choice.recent.summary is not None)
    points = [
        (0, choice.parameter_tokens),
        (after_instructions, base_tokens - choice.summary_tokens),
        (after_summary, base_tokens),
    ]
    if sent_pins := [item for item in sent if item.item_id in pins]:
        points.append((len(_parts(body_of(sent_pins))), base_tokens + sum(item.tokens for item in sent_pins)))
    new_turns = max(1, sum(new.begins_turn for new in choice.context_input.input))
    turn_part = _nth_last([isinstance(part, dict) and part.get("role") == "user" for part in parts], new_turns)
    turn_item = _nth_last([item.begins_turn for item in sent], new_turns)
    if turn_part is not None and turn_item is not None:
        points.append((turn_part, choice.tokens - sum(item.tokens for item in sent[turn_item:])))
    points.append((len(parts), choice.tokens))
    tokens_at: dict[int, int] = {}
    for length, tokens in points:
        if length > max(tokens_at, default=-1) and tokens > max(tokens_at.values(), default=0):
            tokens_at[length] = tokens
    return tokens_at


def _nth_last(flags: Sequence[bool], n: int) -> int | None:
    indices = [index for index, flag in enumerate(flags) if flag]
    return indices[-n] if len(indices) >= n else None


def _parts(body: Mapping[str, Any]) -> list[Any]:
    return [body.get("instructions"), *(body["messages"] if "messages" in body else body["input"])]


def _hashes(body: Mapping[str, Any], lengths: Collection[int]) -> dict[int, bytes]:
    hashes: dict[int, bytes] = {}
    sha256 = hashlib.sha256()
    for length, part in enumerate([*_parts(body), None]):
        if length in lengths:
            hashes[length] = sha256.copy().digest()[:_POINT_BYTES]
        sha256.update(_encode(part))
    return hashes


def _setting_hashes(parameters: Mapping[str, Any]) -> Iterator[bytes]:
    for name, field, _ in _SETTINGS:
        value = parameters.get(name)
        if field is not None:
            value = value.get(field) if isinstance(value, Mapping) else None
        yield hashlib.sha256(_encode(value or None)).digest()[:_SETTING_BYTES]
