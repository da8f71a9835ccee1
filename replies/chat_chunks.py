"""Translates the events of a Response's stream into the chunks of a chat completion.

Shapes: `openai/types/chat/chat_completion_chunk.py` of the official SDK.
"""

from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from typing import Any, Final

import msgspec
from msgspec import UNSET

from context.transcripts.chat_messages import is_legacy_call
from domain.items import Item
from infrastructure.http.errors import ErrorDetail, ErrorResponse
from infrastructure.http.event_streams import on_one_line
from infrastructure.ids import completion_id
from replies.chat_completion import BETWEEN_REASONING, chat_completion
from replies.chat_shape import ChatCompletionChunk, ChunkChoice, FinishReason
from replies.event_data import event_data

_DONE: Final = b"data: [DONE]\n\n"
_TEXT: Final = {"response.output_text.delta": "content", "response.refusal.delta": "refusal"}
_REASONING: Final = ("response.reasoning_text.delta", "response.reasoning_summary_text.delta")
_ARGUMENTS: Final = {
    "response.function_call_arguments.delta": ("function", "arguments"),
    "response.custom_tool_call_input.delta": ("custom", "input"),
}
_CALLS: Final = {"function_call": "function", "custom_tool_call": "custom"}
_TERMINAL: Final = ("response.completed", "response.incomplete")
_FAILED: Final = ("response.failed", "error")
_READ: Final = frozenset(
    {"response.created", "response.output_item.added", *_TEXT, *_REASONING, *_ARGUMENTS, *_TERMINAL, *_FAILED}
)
"""The chunks need no other events."""


async def chat_chunks(events: AsyncGenerator[bytes, None], *, include_usage: bool) -> AsyncGenerator[bytes, None]:
    """The chunks as server-sent events, then `[DONE]`, or an error if the Response fails."""
    chunks = _Chunks(include_usage=include_usage)
    async with aclosing(event_data(events)) as parts:
        async for kind, data in parts:
            if kind in _READ:
                encoded = b"".join(chunks.of_event(kind, msgspec.json.decode(data)))
                if encoded:
                    yield encoded


class _Chunks:
    def __init__(self, *, include_usage: bool) -> None:
        self._include_usage = include_usage
        self._head: dict[str, Any] = {}
        self._has_role = False
        self._calls: dict[int, int | None] = {}
        """The index of each call in the chunks, by the index of its output item. None: a legacy `function_call`."""
        self._reasoning_part: tuple[Any, ...] | None = None

    def of_event(self, kind: str, event: Mapping[str, Any]) -> Iterator[bytes]:
        if kind == "response.created":
            response = event["response"]
            self._head = {
                "id": completion_id(response["id"]),
                "created": response["created_at"],
                "model": response["model"],
            }
        elif kind in _TEXT:
            yield from self._delta({_TEXT[kind]: event["delta"]})
        elif kind in _REASONING:
            yield from self._delta({"reasoning_content": self._separator(kind, event) + event["delta"]})
        elif kind == "response.output_item.added":
            yield from self._started_call(event["output_index"], event["item"])
        elif kind in _ARGUMENTS:
            field, name = _ARGUMENTS[kind]
            index = self._calls[event["output_index"]]
            arguments = {name: event["delta"]}
            call = (
                {"function_call": arguments} if index is None else {"tool_calls": [{"index": index, field: arguments}]}
            )
            yield from self._delta(call)
        elif kind in _TERMINAL:
            yield from self._end(event["response"])
        else:
            yield _error(event)

    def _started_call(self, output_index: int, item: Item) -> Iterator[bytes]:
        if (field := _CALLS.get(item["type"])) is None:
            return
        arguments = {"name": item["name"], "arguments" if field == "function" else "input": ""}
        if is_legacy_call(item):
            self._calls[output_index] = None
            yield from self._delta({"function_call": arguments})
            return
        index = self._calls[output_index] = sum(number is not None for number in self._calls.values())
        call = {"index": index, "id": item["call_id"], "type": field, field: arguments}
        yield from self._delta({"tool_calls": [call]})

    def _separator(self, kind: str, event: Mapping[str, Any]) -> str:
        part = (kind, event["output_index"], event.get("content_index"), event.get("summary_index"))
        is_next = self._reasoning_part not in (None, part)
        self._reasoning_part = part
        return BETWEEN_REASONING if is_next else ""

    def _delta(self, delta: dict[str, Any]) -> Iterator[bytes]:
        if not self._has_role:
            self._has_role = True
            content = None if delta.keys() & {"tool_calls", "function_call", "refusal"} else ""
            yield self._chunk({"role": "assistant", "content": content, "refusal": None})
        yield self._chunk(delta)

    def _end(self, response: Mapping[str, Any]) -> Iterator[bytes]:
        completion = chat_completion(response)
        if not self._has_role:
            yield self._chunk({"role": "assistant", "content": "", "refusal": None})
        choice = completion.choices[0]
        if choice.message.annotations:
            yield self._chunk({"annotations": choice.message.annotations})
        yield self._chunk({}, choice.finish_reason, service_tier=completion.service_tier)
        if self._include_usage:
            yield _encoded(ChatCompletionChunk(**self._head, choices=[], usage=completion.usage))
        yield _DONE

    def _chunk(self, delta: dict[str, Any], finish_reason: FinishReason | None = None, **fields: Any) -> bytes:
        choice = ChunkChoice(delta=delta, finish_reason=finish_reason)
        usage = None if self._include_usage else UNSET
        return _encoded(ChatCompletionChunk(**self._head, choices=[choice], usage=usage, **fields))


def _encoded(value: ChatCompletionChunk | ErrorResponse) -> bytes:
    return b"data: " + on_one_line(msgspec.json.encode(value)) + b"\n\n"


def _error(event: Mapping[str, Any]) -> bytes:
    if "response" not in event:
        code, response_id = event["code"], event.get("response_id", UNSET)
    else:
        response = event["response"]
        event, response_id = response["error"], response["id"]
        code = event["type"] or event["code"]
    detail = ErrorDetail(event["message"], "server_error", event.get("param"), code, response_id)
    return _encoded(ErrorResponse(detail))
