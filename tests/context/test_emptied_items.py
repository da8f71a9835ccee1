"""Emptied items are deleted items that keep their type, role and call id, but no content.

Renderers 1 to 5 can still render them.
"""

from typing import Any

import msgspec
import pytest

from context.rendering import render, unsendable
from domain.items import emptied

SECRET = "xylophone"
PART = {"type": "input_text", "text": SECRET}
MESSAGE = {"type": "message", "role": "user", "content": "stays"}
ITEMS: list[dict[str, Any]] = [
    {"role": "user", "content": SECRET},
    {"type": "message", "role": "assistant", "content": [{**PART, "type": "output_text"}], "status": "completed"},
    {"type": "message", "role": "user", "content": [PART, {"type": "input_image", "image_url": SECRET}]},
    {"type": "function_call", "call_id": "c1", "name": SECRET, "arguments": SECRET},
    {"type": "function_call_output", "call_id": "c1", "output": [PART]},
    {"type": "custom_tool_call", "call_id": "c2", "name": SECRET, "input": SECRET},
    {"type": "custom_tool_call_output", "call_id": "c2", "output": SECRET},
    {"type": "reasoning", "summary": [{"type": "summary_text", "text": SECRET}], "encrypted_content": SECRET},
    {"type": "compaction", "encrypted_content": "eyJzdW1tYXJ5IjogInh5bG9waG9uZSJ9"},
    {"type": "mcp_call", "name": SECRET, "arguments": SECRET, "output": SECRET, "server_label": SECRET},
    {"type": "computer_call", "call_id": "c3", "action": {"text": SECRET}},
    {"type": "computer_call_output", "call_id": "c3", "output": {"image_url": SECRET}},
    {"type": "web_search_call", "id": SECRET, "action": {"query": SECRET}},
    {"type": "of_tomorrow", SECRET: SECRET, "role": 7},
]


@pytest.mark.parametrize("renderer", [1, 2, 3, 4, 5])
def test_renderers_1_to_5_render_no_content_of_emptied_items(renderer: int) -> None:
    items = [MESSAGE, *ITEMS, MESSAGE]
    not_sent = unsendable(renderer, items)
    sent = [item for index, item in enumerate(items) if index not in not_sent]
    emptied_items = [item if item is MESSAGE else emptied(item) for item in sent]
    for subset in (emptied_items, *([MESSAGE, item] for item in emptied_items)):
        body = render(
            renderer,
            model="m",
            instructions=[],
            summary=None,
            items=subset,
            parameters={},
            item_ids=[f"item_{index}" for index in range(len(subset))],
        )
        text = msgspec.json.encode(body).decode()
        assert SECRET not in text
        assert "stays" in text


def test_an_emptied_item_keeps_its_type_its_role_and_its_call_id() -> None:
    assert emptied(ITEMS[3]) == {"type": "function_call", "call_id": "c1", "name": "", "arguments": ""}
    assert emptied(ITEMS[4]) == {"type": "function_call_output", "call_id": "c1", "output": ""}
    assert emptied(ITEMS[0]) == {"type": "message", "role": "user", "content": ""}
    assert emptied(ITEMS[-1]) == {"type": "of_tomorrow"}
