"""A model provider for tests: a real HTTP server with `/chat/completions` and `/responses`. A script makes the answers."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Script = Callable[["Exchange"], None]


class Exchange(BaseHTTPRequestHandler):
    provider: "ScriptedProvider"
    body: Any
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # otherwise a part may wait 40 ms

    def do_GET(self) -> None:
        self.provider.list_requests += 1
        models = [
            {"id": name, "object": "model", "created": 1, "owned_by": "us", **self.provider.model_facts.get(name, {})}
            for name in self.provider.models
        ]
        self.json(200, {"object": "list", "data": models})

    def do_POST(self) -> None:
        length = int(self.headers["content-length"])
        received = self.rfile.read(length)
        if len(received) < length:
            self.provider.disconnected.set()
            self.close_connection = True
            return
        self.body = json.loads(received)
        self.provider.paths.append(self.path)
        self.provider.requests.append(self.body)
        try:
            self.provider.script(self)
        except (BrokenPipeError, ConnectionResetError):
            self.provider.disconnected.set()
        self.close_connection = True

    def json(self, status: int, body: Any, **headers: str) -> None:
        self.raw(status, json.dumps(body).encode(), "application/json", **headers)

    def raw(self, status: int, body: bytes, content_type: str, **headers: str) -> None:
        """In the names of `headers`, `_` stands for `-`."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(body)))
        # Otherwise the client would reuse the closed connection, and fail.
        self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def begin_stream(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()

    def text_chunk(self, text: str | None = None, **choice: Any) -> None:
        delta = {} if text is None else {"content": text}
        self.chunk(choices=[{"index": 0, "delta": delta, "finish_reason": None, **choice}])

    def chunk(self, **fields: Any) -> None:
        base = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "scripted"}
        self.wfile.write(b"data: " + json.dumps({**base, **fields}).encode() + b"\n\n")
        self.wfile.flush()

    def delta(self, **delta: Any) -> None:
        self.chunk(choices=[{"index": 0, "delta": delta, "finish_reason": None}])

    def event(self, kind: str, **fields: Any) -> None:
        self.wfile.write(f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode())
        self.wfile.flush()

    def end_stream(self) -> None:
        self.wfile.write(b"data: [DONE]\n\n")

    def stream_text(self, *texts: str, finish_reason: str = "stop") -> None:
        """Streams a chat answer with one chunk for each text."""
        self.begin_stream()
        for text in texts:
            self.text_chunk(text)
        self.text_chunk(finish_reason=finish_reason)
        usage = {"prompt_tokens": 7, "completion_tokens": len(texts), "total_tokens": 7 + len(texts)}
        self.chunk(choices=[], usage=usage)
        self.end_stream()

    def stream_items(self, *items: dict[str, Any], status: str = "completed", **response: Any) -> None:
        """Streams a response with these items. Each delta of a text is one word."""
        self.begin_stream()
        self.event("response.created", response={"id": "resp_theirs", "status": "in_progress"})
        for index, item in enumerate(items):
            address = {"output_index": index, "item_id": item["id"]}
            empty = {name: value for name, value in {"content": [], "arguments": ""}.items() if name in item}
            self.event("response.output_item.added", output_index=index, item={**item, **empty})
            for part in item.get("content", ()):
                kind = {"output_text": "output_text", "refusal": "refusal"}.get(part["type"], "reasoning_text")
                for word in re.findall(r"\S+\s*", part.get("text") or part["refusal"]):
                    self.event(f"response.{kind}.delta", **address, content_index=0, delta=word)
            if "arguments" in item:
                self.event("response.function_call_arguments.delta", **address, delta=item["arguments"])
            self.event("response.output_item.done", output_index=index, item=item)
        final = {"id": "resp_theirs", "status": status, "model": "scripted", "output": items, **response}
        self.event(f"response.{status}", response=final)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in the parent class
        """Logs nothing."""


class ScriptedProvider:
    """A running provider, which records its requests.

    `requests`: the bodies of the POSTs. `models`: the names in the list of models. `model_facts`: the models' other fields.
    `disconnected` is set when the store closes a connection early.
    """

    def __init__(self) -> None:
        self.script: Script = lambda exchange: exchange.stream_text("Hello", ", ", "world", "!")
        self.requests: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.models = ["scripted"]
        self.model_facts: dict[str, dict[str, Any]] = {}
        self.list_requests = 0
        self.disconnected = threading.Event()
        handler = type("Bound", (Exchange,), {"provider": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class SlowModels(list[str]):
    """Names of models. A reader waits until `released` is set, at most 10 seconds."""

    def __init__(self, *names: str) -> None:
        super().__init__(names)
        self.released = threading.Event()

    def __iter__(self) -> Iterator[str]:
        self.released.wait(10)
        return super().__iter__()


def scripted_provider() -> Iterator[ScriptedProvider]:
    """Yields a provider, then closes it."""
    provider = ScriptedProvider()
    yield provider
    provider.close()
