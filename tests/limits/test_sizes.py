"""How many bytes of a connection count against the limits."""

from typing import Any

import pytest

from infrastructure.http.limits import size_of


@pytest.mark.parametrize(
    ("message", "size"),
    [
        ({"type": "http.response.body", "body": b"four"}, 4),
        ({"type": "http.response.body"}, 0),
        ({"type": "websocket.receive", "text": "four", "bytes": None}, 4),
        ({"type": "websocket.receive", "text": "日本"}, 6),
        ({"type": "websocket.receive", "text": None, "bytes": b"four"}, 4),
        ({"type": "websocket.send", "text": "日本"}, 6),
        ({"type": "websocket.close"}, 0),
    ],
)
def test_bodies_and_messages_count_their_bytes(message: dict[str, Any], size: int) -> None:
    assert size_of(message) == size
