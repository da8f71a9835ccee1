"""The fast `output_item_json` gives the same item as `output_item`."""

from typing import Any

import msgspec
import pytest

from domain.items import output_item, output_item_json

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
def test_an_item_as_json_text_is_the_item_that_clients_get(item: dict[str, Any]) -> None:
    assert msgspec.json.decode(output_item_json("msg_1", item)) == output_item("msg_1", item)
