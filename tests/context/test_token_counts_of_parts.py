"""All text that is sent for an item or for the tools is counted."""

import base64
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from context.item_tokens import counted_parameters, counted_text, fixed_tokens
from context.rendering import CHAT, RESPONSES, noted_item, render
from context.tokens import count
from domain.items import Item

LONG = "a word and another " * 200
TYPE_NAME_TOKENS = 40
"""At most this many tokens of names of types and fields are not counted."""

CALL: Item = {"type": "function_call", "call_id": "c", "name": "look", "arguments": LONG}


def compaction(summary: str) -> Item:
    content = base64.b64encode(msgspec.json.encode({"summary": summary})).decode()
    return {"type": "compaction", "encrypted_content": content}


def message(role: str, *parts: dict[str, Any]) -> list[Item]:
    return [{"type": "message", "role": role, "content": [{"type": "input_text", "text": "hi"}, *parts]}]


def output(*parts: Any) -> list[Item]:
    return [CALL, {"type": "function_call_output", "call_id": "c", "output": list(parts)}]


def _strings(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for member in value.values():
                yield from _strings(member)
        case list():
            for member in value:
                yield from _strings(member)
        case _:
            pass


@pytest.mark.parametrize("renderer", [CHAT, RESPONSES])
@pytest.mark.parametrize(
    "items",
    [
        message("user", {"type": LONG}),
        message("user", {"type": "novel", "pages": [LONG, LONG]}),
        message("user", {"type": "novel", "text": "short", "pages": [LONG, LONG]}),
        message("assistant", {"type": "refusal", "refusal": LONG}),
        message("assistant", {"type": "input_image", "text": LONG}),
        message("user", {"type": "input_file", "filename": LONG, "file_data": "data:,x"}),
        output({"type": LONG}, {"type": "novel", "pages": LONG}),
        output(LONG, [LONG], {"type": [LONG]}, None, 1),
        output({"type": "input_text", "text": LONG}),
        [compaction("")],
        [compaction(LONG)],
        [CALL, {"type": "function_call_output", "call_id": "c", "output": LONG}],
    ],
)
def test_every_part_that_is_sent_is_counted(items: list[Item], renderer: int) -> None:
    body = render(renderer, model="m", instructions=(), summary=None, items=items, parameters={})
    sent = body["messages"] if renderer == CHAT else body["input"]
    not_counted = ("role", "id", "call_id", "tool_call_id", "status")
    read_by_model = [{name: value for name, value in message.items() if name not in not_counted} for message in sent]
    as_sent = [noted.item if (noted := noted_item(renderer, item, ())) else item for item in items]
    counted = sum(count(counted_text(item)) + fixed_tokens(item) for item in as_sent)
    assert sum(map(count, _strings(read_by_model))) <= counted + TYPE_NAME_TOKENS


def test_tools_are_counted_in_full_for_both_apis() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    tools = [{"type": "function", "name": f"f{n}", "description": "Looks.", "parameters": schema} for n in range(100)]
    parameters = {"tools": tools}
    for renderer in (CHAT, RESPONSES):
        body = render(renderer, model="m", instructions=(), summary=None, items=[], parameters=parameters)
        assert count(msgspec.json.encode(body["tools"]).decode()) <= count(counted_parameters(parameters))
