"""The answer to a request of a random walk, complete or streamed."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
from msgspec import Struct

from tests.end_to_end.walk_messages import Json


class Received(Struct):
    """What the client received. `status`: None if the answer was lost, or its stream is incomplete or has an error."""

    status: int | None = None
    headers: Mapping[str, str] = {}
    message: Json = {}
    completion_id: str = ""
    error: str = ""


def received(answer: httpx.Response, *, is_stream: bool) -> Received:
    if answer.status_code != 200:
        return Received(answer.status_code, error=answer.text)
    if not is_stream:
        body = answer.json()
        return Received(200, answer.headers, body["choices"][0]["message"], body["id"])
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    if lines[-1:] != ["[DONE]"]:
        return Received(error=answer.text)
    chunks = [json.loads(line) for line in lines[:-1]]
    if errors := [chunk for chunk in chunks if "error" in chunk]:
        return Received(error=json.dumps(errors))
    return Received(200, answer.headers, _message_of(chunks), chunks[0]["id"])


def _message_of(chunks: Sequence[Json]) -> Json:
    text, calls = "", dict[int, Json]()
    for delta in [choice["delta"] for chunk in chunks for choice in chunk["choices"]]:
        text += delta.get("content") or ""
        for part in delta.get("tool_calls") or ():
            call = calls.setdefault(
                part["index"], {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
            )
            call["id"] += part.get("id") or ""
            for field in ("name", "arguments"):
                call["function"][field] += part.get("function", {}).get(field) or ""
    return {"role": "assistant", "content": text} | ({"tool_calls": list(calls.values())} if calls else {})


def plain_call(call: Any) -> Json:
    return {"id": call["id"], "type": call["type"], "function": {k: call["function"][k] for k in ("name", "arguments")}}
