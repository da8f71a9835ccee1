"""A provider's script that plays an assistant, in the Chat Completions API and the Responses API.

The assistant calls a tool for the weather, repeats a tool's output, sees images, and remembers names.
Other answers give the number of messages from the user and the assistant.
"""

import json
import re
import uuid
from typing import Any

from msgspec import Struct

from tests.scripted_provider import Exchange

USAGE = {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}
RESPONSES_USAGE = {
    "input_tokens": 20,
    "input_tokens_details": {"cached_tokens": 5},
    "output_tokens": 10,
    "output_tokens_details": {"reasoning_tokens": 2},
    "total_tokens": 30,
}


class Shown(Struct, frozen=True):
    """A message or another item, as the assistant sees it.

    `role`: also `call`, `tool` (a tool's output), or the type of another item.
    """

    role: str
    text: str
    has_image: bool = False


class Answer(Struct, frozen=True):
    """An answer of the assistant. `call`: (name of the tool, arguments)."""

    text: str = ""
    reasoning: str = ""
    call: tuple[str, str] | None = None


def assistant(exchange: Exchange) -> None:
    answered = answer(shown(exchange.body), exchange.body.get("tools") or [])
    if exchange.path.endswith("/responses"):
        _send_items(exchange, answered)
    else:
        _send_chunks(exchange, answered)


def answer(messages: list[Shown], tools: list[dict[str, Any]]) -> Answer:
    """Answers the last question.

    An agent of smolagents gets a final answer as a call of `final_answer`, or as Python code that calls `final_answer`.
    """
    names = [tool.get("function", tool)["name"] for tool in tools]
    if messages[0].role == "system" and "<code>" in messages[0].text:
        answered = _answer(messages, [{"name": "weather", "parameters": {"properties": {"city": {}}}}])
        code = f"final_answer({answered.text!r})" if answered.call is None else 'print(weather("Paris"))'
        return Answer(f"I write code.\n<code>\n{code}\n", answered.reasoning)
    answered = _answer(messages, tools)
    if "final_answer" in names and answered.call is None:
        return Answer(reasoning=answered.reasoning, call=("final_answer", json.dumps({"answer": answered.text})))
    return answered


def _answer(messages: list[Shown], tools: list[dict[str, Any]]) -> Answer:
    question = messages[_last(messages, "user")]
    outputs = [message.text for message in messages[_last(messages, "user") :] if message.role == "tool"]
    if question.text.startswith("Observation:") and "New task:" not in question.text:
        outputs = re.findall(r"^(?:Observation|Execution logs):\n(?!Execution logs)(.*)", question.text, re.MULTILINE)
    if outputs:
        return Answer(f"The tool says: {' and '.join(outputs)}.")
    if "weather" in question.text and tools:
        return Answer(call=_call(tools[0]))
    if question.has_image:
        return Answer("A red heart on white.")
    reasoning = "I have been asked to think. So I think." if "hink" in question.text else ""
    if "my name?" in question.text:
        names = [match[1] for message in messages if (match := re.search(r"[Mm]y name is (\w+)", message.text))]
        return Answer(f"Your name is {names[-1]}." if names else "You have not told me.", reasoning)
    count = sum(message.role in ("user", "assistant") for message in messages)
    return Answer(f"I was shown {count} messages.", reasoning)


def shown(request: dict[str, Any]) -> list[Shown]:
    if isinstance(request.get("input"), str):
        return [Shown("user", request["input"])]
    return [_shown(entry) for entry in request.get("messages") or request["input"]]


def _shown(entry: dict[str, Any]) -> Shown:
    match entry.get("type", "message"):
        case "function_call":
            return Shown("call", entry["name"])
        case "function_call_output":
            return Shown("tool", _text(entry["output"]))
        case "message":
            content = entry.get("content") or ""
            has_image = isinstance(content, list) and any("image" in part["type"] for part in content)
            return Shown("call" if entry.get("tool_calls") else entry["role"], _text(content), has_image)
        case other:
            return Shown(other, "")


def _text(content: str | list[dict[str, Any]]) -> str:
    return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)


def _last(messages: list[Shown], role: str) -> int:
    return max(index for index, message in enumerate(messages) if message.role == role)


def _call(tool: dict[str, Any]) -> tuple[str, str]:
    """A call of the tool, with `Paris` as the first parameter."""
    function = tool.get("function", tool)
    parameter = next(iter(function["parameters"]["properties"]))
    return function["name"], json.dumps({parameter: "Paris"})


def _id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"


def _words(text: str) -> list[str]:
    return re.findall(r"\S+\s*", text)


def _send_chunks(exchange: Exchange, answered: Answer) -> None:
    exchange.begin_stream()
    for word in _words(answered.reasoning):
        exchange.delta(reasoning_content=word)
    for word in _words(answered.text):
        exchange.text_chunk(word)
    if answered.call is not None:
        name, arguments = answered.call
        function = {"name": name, "arguments": arguments}
        exchange.delta(tool_calls=[{"index": 0, "id": _id("call"), "type": "function", "function": function}])
    exchange.text_chunk(finish_reason="stop" if answered.call is None else "tool_calls")
    exchange.chunk(choices=[], usage=USAGE)
    exchange.end_stream()


def _send_items(exchange: Exchange, answered: Answer) -> None:
    items: list[dict[str, Any]] = []
    if answered.reasoning:
        content = [{"type": "reasoning_text", "text": answered.reasoning}]
        items.append({"type": "reasoning", "id": _id("rs"), "summary": [], "content": content})
    if answered.text:
        part = {"type": "output_text", "text": answered.text, "annotations": [], "logprobs": []}
        message = {"type": "message", "id": _id("msg"), "role": "assistant", "status": "completed"}
        items.append({**message, "content": [part]})
    if answered.call is not None:
        name, arguments = answered.call
        call = {"type": "function_call", "id": _id("fc"), "call_id": _id("call"), "status": "completed"}
        items.append({**call, "name": name, "arguments": arguments})
    exchange.stream_items(*items, usage=RESPONSES_USAGE)
