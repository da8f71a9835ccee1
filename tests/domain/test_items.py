"""`encodable_output_item`, `in_short` and `in_full`."""

from typing import Any

import msgspec
import pytest

from domain.items import as_stored, encodable_output_item, in_full, in_short, output_item

TEXT = 'He said: "{no}" \\ 雪 \n\x01 </script>'


@pytest.mark.parametrize(
    "item",
    [
        {"type": "message", "role": "user", "content": TEXT},
        {"type": "message", "role": "assistant", "content": TEXT},
        {"type": "message", "role": "developer", "content": ""},
        {"content": TEXT, "role": "system", "type": "message"},
        {"role": "user", "content": TEXT},
        {"role": "user", "content": TEXT, "extra": 1},
        {"type": "message", "role": "assistant", "content": TEXT, "status": "incomplete"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": TEXT}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": TEXT}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "unknown", "role": "user", "content": TEXT},
        {"type": "reasoning", "summary": [], "content": TEXT},
    ],
)
def test_an_item_in_encodable_form_is_the_item_that_clients_get(item: dict[str, Any]) -> None:
    encoded = msgspec.json.encode(encodable_output_item("msg_1", item))
    assert msgspec.json.decode(encoded) == output_item("msg_1", item)


@pytest.mark.parametrize(
    ("role", "part"),
    [
        ("user", '{"type":"input_text","text":"hi"}'),
        ("assistant", '{"type":"output_text","text":"hi","annotations":[]}'),
    ],
)
def test_the_fields_of_a_message_have_one_order(role: str, part: str) -> None:
    encoded = msgspec.json.encode(encodable_output_item("msg_1", {"content": "hi", "role": role}))
    fields = f'"id":"msg_1","type":"message","role":"{role}","content":[{part}],"status":"completed"'
    assert encoded.decode() == "{" + fields + "}"


INPUT_TEXT = {"type": "input_text", "text": TEXT}
OUTPUT_TEXT = {"type": "output_text", "text": TEXT, "annotations": []}


@pytest.mark.parametrize(
    "item",
    [
        {"role": "user", "content": TEXT},
        {"type": "message", "role": "assistant", "content": ""},
        {"role": "user", "content": [INPUT_TEXT]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": ""}]},
        {"type": "message", "role": "assistant", "status": "completed", "content": [OUTPUT_TEXT]},
    ],
)
def test_a_plain_message_survives_in_short_and_in_full(item: dict[str, Any]) -> None:
    text, form = in_short(item)
    assert isinstance(text, str)
    assert as_stored(in_full(text, form)) == as_stored(item)


@pytest.mark.parametrize(
    "item",
    [
        {"content": "hi", "role": "user"},
        {"role": "user", "content": "hi", "type": "message"},
        {"role": "user", "content": "hi", "extra": 1},
        {"type": "unknown", "role": "user", "content": "hi"},
        {"role": "user", "content": [INPUT_TEXT, INPUT_TEXT]},
        {"role": "user", "content": [{"text": "hi", "type": "input_text"}]},
        {"role": "user", "content": [{"type": "input_image", "image_url": "hi"}]},
        {"role": "user", "content": []},
        {"role": "user", "content": ["hi"]},
        {"type": "message", "role": "assistant", "status": "incomplete", "content": [OUTPUT_TEXT]},
        {"type": "message", "role": "assistant", "content": [OUTPUT_TEXT], "status": "completed"},
        {
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{**OUTPUT_TEXT, "annotations": [1]}],
        },
        {"type": "message", "role": "assistant", "content": None},
        {"role": "tool", "content": "hi"},
        {},
    ],
)
def test_an_item_without_a_short_form_is_kept_whole(item: dict[str, Any]) -> None:
    assert in_short(item) == (item, 0)
