"""A model provider that answers at once and speaks evenly: `/chat/completions`, streamed, so many pieces a second.

`python -m scripts.benchmarks.provider FD` serves on a listening socket that it inherits. It is the floor of a reply's first word.
"""

import asyncio
import socket
import sys
import time

from starlette.types import Receive, Scope, Send

from infrastructure.http.serve import serve
from infrastructure.settings import Settings

PIECES = 40
PIECES_A_SECOND = 10.0

_MODELS = b'{"object":"list","data":[{"id":"even","object":"model","created":1,"owned_by":"us"}]}'
_CHUNK = b'{"id":"c","object":"chat.completion.chunk","created":1,"model":"even","choices":[{"index":0,"delta":%s,"finish_reason":%s}]}'
_PIECE = b"data: " + _CHUNK % (b'{"content":"word and "}', b"null") + b"\n\n"
_LAST = (
    b"data: "
    + _CHUNK % (b"{}", b'"stop"')
    + b'\n\ndata: {"id":"c","object":"chat.completion.chunk","created":1,"model":"even","choices":[],'
    b'"usage":{"prompt_tokens":9,"completion_tokens":120,"total_tokens":129}}\n\ndata: [DONE]\n\n'
)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Any POST is answered with a stream, any GET with the list of models."""
    if scope["type"] != "http":
        return
    if scope["method"] == "GET":
        await _begin(send, b"application/json")
        await send({"type": "http.response.body", "body": _MODELS})
        return
    while (await receive()).get("more_body"):
        pass
    await _begin(send, b"text/event-stream")
    began = time.perf_counter()
    for number in range(PIECES):
        await asyncio.sleep(max(0.0, began + number / PIECES_A_SECOND - time.perf_counter()))
        await send({"type": "http.response.body", "body": _PIECE, "more_body": True})
    await send({"type": "http.response.body", "body": _LAST})


async def _begin(send: Send, kind: bytes) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})


if __name__ == "__main__":
    serve(app, Settings(), [socket.socket(fileno=int(sys.argv[1]))])
