"""`/chat/completions`: the chunks of an answer as pieces.

Shapes: `openai/types/chat/chat_completion_chunk.py` of the official SDK, and what other providers make of it: reasoning in
`reasoning_content` or `reasoning`, calls without an id or an index.
"""

import uuid
from typing import Any

import msgspec
from msgspec import Struct

from domain.events import Usage
from replies.provider.failures import broke_off, not_understood, told
from replies.provider.stream_parts import Finished, Piece
from replies.provider.usage import count_in
from replies.provider.whole_items import Turns

_REASONS = {"function_call": "tool_calls", "max_tokens": "length"}
_KNOWN_REASONS = frozenset({"stop", "length", "tool_calls", "content_filter"})


class _Words(Struct):
    """A call's function, or its custom tool."""

    name: str | None = None
    arguments: str | None = None
    input: str | None = None


class _Call(Struct):
    index: int | None = None
    id: str | None = None
    function: _Words | None = None
    custom: _Words | None = None


class _Delta(Struct):
    content: str | None = None
    refusal: str | None = None
    reasoning_content: Any = None
    reasoning: Any = None
    tool_calls: list[_Call] | None = None


class _Choice(Struct):
    index: int | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Chunk(Struct):
    choices: list[_Choice] | None = None
    usage: Any = None
    model: str | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Chunk).decode


class _Made(Struct):
    """A call that has begun: the index and the id the provider gave it, its key, a custom tool's input so far, its name, and
    a function's arguments so far."""

    index: int | None
    id: str | None
    key: int
    custom: list[str] | None
    name: str | None = None
    arguments: list[str] = []

    def is_followed_by(self, words: _Words) -> bool:
        """Whether these are another call's, where the provider gives neither an id nor an index of its own: Gemini does not."""
        if words.name != self.name:
            return True
        return bool((words.arguments or "").strip()) and _is_object("".join(self.arguments))


def _is_object(text: str) -> bool:
    """Whether it is the JSON of a whole object."""
    try:
        msgspec.json.decode(text, type=dict)
    except (ValueError, RecursionError):
        return False
    return True


class ChatAnswer:
    """One answer. Text that comes while a call is being told is a message of its own after it."""

    def __init__(self) -> None:
        self._turns = Turns()
        self._speaking: tuple[str, int] | None = None
        self._spoken = 0
        self._calls: list[_Made] = []
        self._ids: set[str] = set()
        self._reason: str | None = None
        self._usage: Any = None
        self._model: str | None = None

    def take(self, data: bytes) -> list[Piece]:
        """The pieces of one event. Raises ModelFailed, and ValueError for what is no chunk."""
        chunk = _decode(data)
        if chunk.error is not None:
            raise told(chunk.error)
        self._usage = chunk.usage or self._usage
        self._model = chunk.model or self._model
        if not chunk.choices:
            return []
        choice = next((each for each in chunk.choices if not each.index), None)
        if choice is None:  # of another answer, which nobody asked for
            return []
        delta = choice.delta or _Delta()
        for thought in (delta.reasoning_content, delta.reasoning):
            if thought and isinstance(thought, str):
                self._say("reasoning", thought)
                break  # some send both, and both are the same
        self._say("message", delta.content)
        self._say("message", delta.refusal)
        for call in delta.tool_calls or ():
            self._call(call)
        self._reason = choice.finish_reason or self._reason
        return self._turns.take()

    @property
    def whole(self) -> bool:
        """Whether nothing more can come. Usage may, until `[DONE]`."""
        return False

    def end(self) -> list[Piece]:
        """The last pieces. Raises ModelFailed when the answer is not whole."""
        reason = self._reason
        if reason is None:
            raise broke_off()
        if reason == "error":
            raise told(None)
        self._hush()
        for made in self._calls:
            if not self._turns.is_named(made.key):
                raise not_understood()
            self._turns.end(made.key, None if made.custom is None else {"input": "".join(made.custom)})
        for key in self._turns.open():
            self._turns.end(key)
        reason = _REASONS.get(reason, reason)
        usage = None
        if isinstance(self._usage, dict):
            usage = Usage(
                input_tokens=count_in(self._usage, "prompt_tokens"),
                output_tokens=count_in(self._usage, "completion_tokens"),
                cached_tokens=count_in(self._usage, "prompt_tokens_details", "cached_tokens"),
                reasoning_tokens=count_in(self._usage, "completion_tokens_details", "reasoning_tokens"),
            )
        return [*self._turns.take(), Finished(reason if reason in _KNOWN_REASONS else "stop", usage, self._model)]

    def _say(self, kind: str, text: str | None) -> None:
        """Words of a message or of reasoning: those of one kind that follow each other are one item."""
        if not text:
            return
        if self._speaking is None or self._speaking[0] != kind:
            self._hush()
            self._spoken += 1
            self._speaking = (kind, self._spoken)
            item = {"type": "message", "role": "assistant"} if kind == "message" else {"type": "reasoning"}
            self._turns.begin(self._speaking, item)
        self._turns.grow(self._speaking, text)

    def _hush(self) -> None:
        if self._speaking is not None:
            self._turns.end(self._speaking)
            self._speaking = None

    def _call(self, call: _Call) -> None:
        words = call.function or call.custom or _Words()
        made = self._made(call, words)
        if made is None:
            if not (words.name or call.id or words.arguments or words.input):
                return
            if not self._calls:
                self._hush()
            made = _Made(call.index, call.id or None, len(self._calls), None if call.custom is None else [])
            self._calls.append(made)
            self._turns.begin(made.key)
        if words.name and not self._turns.is_named(made.key):
            kind = "function_call" if made.custom is None else "custom_tool_call"
            name = words.name.replace("\0", "")
            made.name = words.name
            self._turns.begin(made.key, {"type": kind, "call_id": self._call_id(made.id), "name": name})
        if made.custom is None:
            self._turns.grow(made.key, words.arguments or "")
            made.arguments.append(words.arguments or "")
        else:
            self._turns.count(len(words.input or ""))
            made.custom.append((words.input or "").replace("\0", ""))

    def _made(self, call: _Call, words: _Words) -> _Made | None:
        """The call that this goes on with; None begins another. Some give every call the index 0, and ids that differ."""
        for made in reversed(self._calls):
            if call.index is not None and made.index != call.index:
                continue
            if call.index is None and call.id and made.id != call.id:
                continue
            if words.name and self._turns.is_named(made.key):
                if (call.id and made.id and call.id != made.id) or (call.index is None and not call.id):
                    return None
                if not call.id and made.is_followed_by(words):
                    return None
            made.id = made.id or call.id or None
            return made
        return None

    def _call_id(self, given: str | None) -> str:
        """The provider's id of a call, or one of our own where it gives none, or the same twice."""
        call_id = (given or "").replace("\0", "")
        if not call_id or call_id in self._ids:
            call_id = f"call_{uuid.uuid4().hex}"
        self._ids.add(call_id)
        return call_id
