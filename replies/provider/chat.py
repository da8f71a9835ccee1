"""`/chat/completions`: turns the chunks of an answer into stream parts.

Shapes: `openai/types/chat/chat_completion_chunk.py` of the official SDK, and the variants of other providers.
"""

import uuid
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from context.transcripts.chat_messages import LEGACY_CALL_ID
from domain.events import Usage
from replies.provider.failures import incomplete_answer, invalid_answer, reported_failure
from replies.provider.json_text import clean, decode_json
from replies.provider.ordered_items import OrderedItems
from replies.provider.stream_parts import Finished, StreamPart, known_tier, token_count

_FINISH_REASONS = {"function_call": "tool_calls", "max_tokens": "length"}
_KNOWN_FINISH_REASONS = frozenset({"stop", "length", "tool_calls", "content_filter"})


_CACHED = (
    ("prompt_tokens_details", "cached_tokens"),
    ("prompt_cache_hit_tokens",),
    ("cache_read_input_tokens",),
    ("cached_tokens",),
)
_CACHE_WRITES = (("prompt_tokens_details", "cache_write_tokens"), ("cache_creation_input_tokens",))
"""Paths in a usage object of OpenAI, DeepSeek, Anthropic through a proxy, and Moonshot."""


class _FunctionDelta(Struct):
    name: str | None = None
    arguments: str | None = None
    input: str | None = None


class _CallDelta(Struct):
    index: int | None = None
    id: str | None = None
    function: _FunctionDelta | None = None
    custom: _FunctionDelta | None = None


class _Delta(Struct):
    content: str | None = None
    refusal: str | None = None
    reasoning_content: Any = None
    reasoning: Any = None
    tool_calls: list[_CallDelta] | None = None
    function_call: _FunctionDelta | None = None


class _Choice(Struct):
    index: int | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Chunk(Struct):
    choices: list[_Choice] | None = None
    usage: Any = None
    model: str | None = None
    service_tier: Any = None
    error: Any = None


_decoder = msgspec.json.Decoder(_Chunk)


class _StartedCall(Struct):
    """A call that has started. `index` and `id` are the provider's. `custom_input` is None for a function."""

    index: int | None
    id: str | None
    key: int
    custom_input: list[str] | None
    name: str | None = None
    arguments: list[str] = []

    def is_followed_by(self, function: _FunctionDelta) -> bool:
        """Whether the delta starts another call. Gemini's calls have no id and share an index."""
        if function.name != self.name:
            return True
        return bool((function.arguments or "").strip()) and _is_object("".join(self.arguments))


def _is_object(text: str) -> bool:
    try:
        msgspec.json.decode(text, type=dict)
    except (ValueError, RecursionError):
        return False
    return True


def _first_count(usage: Any, paths: Sequence[tuple[str, ...]]) -> int:
    return next((count for path in paths if (count := token_count(usage, *path))), 0)


class ChatAnswer:
    """An answer, read chunk by chunk. Text that arrives while a call is open becomes an item after the call."""

    def __init__(self) -> None:
        self._items = OrderedItems()
        self._open_text: tuple[str, int] | None = None
        self._text_items = 0
        self._open_part: tuple[str, int] | None = None
        self._text_parts = 0
        self._calls: list[_StartedCall] = []
        self._call_ids: set[str] = set()
        self._finish_reason: str | None = None
        self._usage: Any = None
        self._model: str | None = None
        self._service_tier: str | None = None

    def parse(self, data: bytes) -> list[StreamPart]:
        """Raises ModelFailed, and ValueError for data that is not a chunk."""
        chunk = decode_json(_decoder, data)
        if chunk.error is not None:
            raise reported_failure(chunk.error)
        self._usage = chunk.usage or self._usage
        self._model = chunk.model or self._model
        self._service_tier = known_tier(chunk.service_tier) or self._service_tier
        if not chunk.choices:
            return []
        choice = next((choice for choice in chunk.choices if not choice.index), None)
        if choice is None:  # a chunk of a second answer, which was not requested
            return []
        delta = choice.delta or _Delta()
        for reasoning in (delta.reasoning_content, delta.reasoning):
            if reasoning and isinstance(reasoning, str):
                self._add_text("reasoning", "reasoning_text", reasoning)
                break  # where a provider sends both fields, they are equal
        self._add_text("message", "output_text", delta.content)
        self._add_text("message", "refusal", delta.refusal)
        for call in delta.tool_calls or ():
            self._add_call(call)
        if (old_call := delta.function_call) is not None:
            self._add_call(_CallDelta(0, LEGACY_CALL_ID + clean(old_call.name) if old_call.name else None, old_call))
        self._finish_reason = choice.finish_reason or self._finish_reason
        return self._items.take_parts()

    @property
    def progress(self) -> object:
        return self._items.characters, self._finish_reason, self._usage is not None

    @property
    def is_complete(self) -> bool:
        """Usage comes last, so the answer is complete only at `[DONE]`."""
        return False

    def finish(self) -> list[StreamPart]:
        """Raises ModelFailed if the answer broke off or failed, or if a call has no name."""
        reason = self._finish_reason
        if reason is None:
            raise incomplete_answer()
        if reason == "error":
            raise reported_failure(None)
        self._end_text()
        for call in self._calls:
            if not self._items.has_type(call.key):
                raise invalid_answer()
            fields = None if call.custom_input is None else {"input": clean("".join(call.custom_input))}
            self._items.end(call.key, fields)
        for key in self._items.open_keys():
            self._items.end(key)
        reason = _FINISH_REASONS.get(reason, reason)
        usage = None
        if isinstance(self._usage, dict):
            usage = Usage(
                input_tokens=token_count(self._usage, "prompt_tokens"),
                output_tokens=token_count(self._usage, "completion_tokens"),
                cached_tokens=_first_count(self._usage, _CACHED),
                cache_write_tokens=_first_count(self._usage, _CACHE_WRITES),
                reasoning_tokens=token_count(self._usage, "completion_tokens_details", "reasoning_tokens"),
            )
        reason = reason if reason in _KNOWN_FINISH_REASONS else "stop"
        model = None if self._model is None else clean(self._model)
        return [*self._items.take_parts(), Finished(reason, usage, model, self._service_tier)]

    def _add_text(self, item_type: str, kind: str, text: str | None) -> None:
        """Consecutive texts of the same type make one item. In an item, consecutive texts of one kind make one part."""
        if not text:
            return
        if self._open_text is None or self._open_text[0] != item_type:
            self._end_text()
            self._text_items += 1
            self._open_text = (item_type, self._text_items)
            item = {"type": "message", "role": "assistant"} if item_type == "message" else {"type": "reasoning"}
            self._items.start(self._open_text, item)
        if self._open_part is None or self._open_part[0] != kind:
            if self._open_part is not None:
                self._items.end_part(self._open_text, self._open_part)
            self._text_parts += 1
            self._open_part = (kind, self._text_parts)
        self._items.add_text(self._open_text, text, self._open_part, kind)

    def _end_text(self) -> None:
        if self._open_text is not None:
            self._items.end(self._open_text)
            self._open_text = self._open_part = None

    def _add_call(self, delta: _CallDelta) -> None:
        function = delta.function or delta.custom or _FunctionDelta()
        call = self._find_call(delta, function)
        if call is None:
            if not (function.name or delta.id or function.arguments or function.input):
                return
            if not self._calls:
                self._end_text()
            custom_input: list[str] | None = None if delta.custom is None else []
            call = _StartedCall(delta.index, delta.id or None, len(self._calls), custom_input)
            self._calls.append(call)
            self._items.start(call.key)
        if function.name and not self._items.has_type(call.key):
            item_type = "function_call" if call.custom_input is None else "custom_tool_call"
            name = clean(function.name)
            call.name = function.name
            self._items.start(call.key, {"type": item_type, "call_id": self._call_id(call.id), "name": name})
        if call.custom_input is None:
            self._items.add_text(call.key, function.arguments or "")
            call.arguments.append(function.arguments or "")
        else:
            self._items.add_length(len(function.input or ""))
            call.custom_input.append(function.input or "")

    def _find_call(self, delta: _CallDelta, function: _FunctionDelta) -> _StartedCall | None:
        """None if the delta starts a call. Some providers give every call the index 0."""
        for call in reversed(self._calls):
            if delta.index is not None and call.index != delta.index:
                continue
            if delta.index is None and delta.id and call.id != delta.id:
                continue
            if function.name and self._items.has_type(call.key):
                if (delta.id and call.id and delta.id != call.id) or (delta.index is None and not delta.id):
                    return None
                if not delta.id and call.is_followed_by(function):
                    return None
            call.id = call.id or delta.id or None
            return call
        return None

    def _call_id(self, provider_id: str | None) -> str:
        """A new id if the provider sent none, or has used it for an earlier call."""
        call_id = clean(provider_id or "")
        if not call_id or call_id in self._call_ids:
            call_id = f"call_{uuid.uuid4().hex}"
        self._call_ids.add(call_id)
        return call_id
