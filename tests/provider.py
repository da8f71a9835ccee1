"""A model provider that does what a test tells it: a real HTTP server with the shapes of `/chat/completions` and `/responses`."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Script = Callable[["Exchange"], None]


class Exchange(BaseHTTPRequestHandler):
    """One request to the provider; a script answers it."""

    provider: "Provider"
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.provider.listed += 1
        listed = [{"id": name, "object": "model", "created": 1, "owned_by": "us"} for name in self.provider.models]
        self.json(200, {"object": "list", "data": listed})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.provider.paths.append(self.path)
        self.provider.requests.append(body)
        try:
            self.provider.script(self)
        except (BrokenPipeError, ConnectionResetError):
            self.provider.hung_up.set()
        self.close_connection = True

    def json(self, status: int, body: Any, **headers: str) -> None:
        self.raw(status, json.dumps(body).encode(), "application/json", **headers)

    def raw(self, status: int, body: bytes, content_type: str, **headers: str) -> None:
        """`headers`: by their names, `_` for `-`."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def begin_stream(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()

    def piece(self, text: str | None = None, **choice: Any) -> None:
        delta = {} if text is None else {"content": text}
        self.chunk(choices=[{"index": 0, "delta": delta, "finish_reason": None, **choice}])

    def chunk(self, **fields: Any) -> None:
        base = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "scripted"}
        self.wfile.write(b"data: " + json.dumps({**base, **fields}).encode() + b"\n\n")
        self.wfile.flush()

    def delta(self, **delta: Any) -> None:
        """A chunk with this delta: `reasoning_content=…`, `tool_calls=[…]`."""
        self.chunk(choices=[{"index": 0, "delta": delta, "finish_reason": None}])

    def event(self, kind: str, **fields: Any) -> None:
        """An event of `/responses`."""
        self.wfile.write(f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode())
        self.wfile.flush()

    def end_stream(self) -> None:
        self.wfile.write(b"data: [DONE]\n\n")

    def say(self, *pieces: str, finish_reason: str = "stop") -> None:
        """A whole answer, streamed."""
        self.begin_stream()
        for piece in pieces:
            self.piece(piece)
        self.piece(finish_reason=finish_reason)
        self.chunk(
            choices=[], usage={"prompt_tokens": 7, "completion_tokens": len(pieces), "total_tokens": 7 + len(pieces)}
        )
        self.end_stream()

    def answer(self, *items: dict[str, Any], status: str = "completed", **response: Any) -> None:
        """A whole answer of `/responses`, streamed: these items one after the other, text in deltas of a word."""
        self.begin_stream()
        self.event("response.created", response={"id": "resp_theirs", "status": "in_progress"})
        for index, item in enumerate(items):
            place = {"output_index": index, "item_id": item["id"]}
            begun = {"content": [], "arguments": ""}
            self.event(
                "response.output_item.added",
                output_index=index,
                item={**item, **{k: v for k, v in begun.items() if k in item}},
            )
            for part in item.get("content", ()):
                kind = {"output_text": "output_text", "refusal": "refusal"}.get(part["type"], "reasoning_text")
                for word in re.findall(r"\S+\s*", part.get("text") or part["refusal"]):
                    self.event(f"response.{kind}.delta", **place, content_index=0, delta=word)
            if "arguments" in item:
                self.event("response.function_call_arguments.delta", **place, delta=item["arguments"])
            self.event("response.output_item.done", output_index=index, item=item)
        whole = {"id": "resp_theirs", "status": status, "model": "scripted", "output": items, **response}
        self.event(f"response.{status}", response=whole)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the parent's name
        """Says nothing."""


class Provider:
    """`script` answers each POST; `requests` are the bodies that came, `paths` where to; `hung_up` is set when the store stopped
    reading. `models` are what it lists, `listed` how often."""

    def __init__(self) -> None:
        self.script: Script = lambda exchange: exchange.say("Hello", ", ", "world", "!")
        self.requests: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.models = ["scripted"]
        self.listed = 0
        self.hung_up = threading.Event()
        handler = type("Bound", (Exchange,), {"provider": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def provider() -> Iterator[Provider]:
    """For a fixture to yield from."""
    running = Provider()
    yield running
    running.close()
