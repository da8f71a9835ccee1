"""The answers that most recipes get, and the items that the store then shows. `test_chat_clients.py` has the exceptions."""

import json
from typing import Any

import httpx

Item = tuple[str, Any]
"""(type, content). For a message the type is its role."""

FIRST = ["You have not told me.", "I was shown 3 messages.", "The tool says: sunny in Paris."]
SECOND = ["Your name is Ada.", "I was shown 9 messages.", "The tool says: sunny in Paris."]
QUESTIONS = ["What is my name?", "Think! My name is Ada.", "How is the weather in Paris?"]
REASONING = "I have been asked to think. So I think."


def turns(answers: list[str]) -> list[Item]:
    return [
        ("user", QUESTIONS[0]),
        ("assistant", answers[0]),
        ("user", QUESTIONS[1]),
        ("reasoning", REASONING),
        ("assistant", answers[1]),
        ("user", QUESTIONS[2]),
        ("function_call", {"city": "Paris"}),
        ("function_call_output", "sunny in Paris"),
        ("assistant", answers[2]),
    ]


def stored(http: httpx.Client, conversation_id: str) -> list[Item]:
    items = http.get(f"/v1/conversations/{conversation_id}/items", params={"order": "asc", "limit": 100}).json()
    assert not items["has_more"]
    return [_kind_and_content(item) for item in items["data"]]


def _kind_and_content(item: dict[str, Any]) -> Item:
    match item["type"]:
        case "message":
            return item["role"], "".join(part["text"] for part in item["content"])
        case "reasoning":
            return "reasoning", "".join(part["text"] for part in item["content"])
        case "function_call":
            return "function_call", json.loads(item["arguments"])
        case kind:
            return kind, item["output"]
