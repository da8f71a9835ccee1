"""A model provider that answers at once and streams at a constant rate: `/chat/completions`.

`python -m scripts.benchmarks.provider FD` serves on the inherited listening socket FD. A reply takes REPLY_SECONDS.
"""

import asyncio
import os
import sys
import time

from starlette.types import ASGIApp, Receive, Scope, Send

from scripts.benchmarks.floor_server import serve

CHUNKS_PER_SECOND = 10.0

_MODELS = b'{"object":"list","data":[{"id":"even","object":"model","created":1,"owned_by":"us"}]}'
_CHUNK = b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"even","choices":[%s]%s}\n\n'
_TEXT_CHUNK = _CHUNK % (b'{"index":0,"delta":{"content":"word and "},"finish_reason":null}', b"")
_LAST = (
    _CHUNK % (b'{"index":0,"delta":{},"finish_reason":"stop"}', b"")
    + _CHUNK % (b"", b',"usage":{"prompt_tokens":9,"completion_tokens":120,"total_tokens":129}')
    + b"data: [DONE]\n\n"
)


def create_app(chunks: int) -> ASGIApp:
    """Answers any POST with a stream of `chunks` text chunks, and any GET with the list of models."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["method"] == "GET":
            await _start_answer(send, b"application/json")
            await send({"type": "http.response.body", "body": _MODELS})
            return
        while (await receive()).get("more_body"):
            pass
        await _start_answer(send, b"text/event-stream")
        started = time.perf_counter()
        for number in range(chunks):
            await asyncio.sleep(max(0.0, started + number / CHUNKS_PER_SECOND - time.perf_counter()))
            await send({"type": "http.response.body", "body": _TEXT_CHUNK, "more_body": True})
        await send({"type": "http.response.body", "body": _LAST})

    return app


async def _start_answer(send: Send, content_type: bytes) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", content_type)]})


if __name__ == "__main__":
    serve(create_app(round(float(os.environ["REPLY_SECONDS"]) * CHUNKS_PER_SECOND)), int(sys.argv[1]))
