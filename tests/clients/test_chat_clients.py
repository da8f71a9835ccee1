"""Client libraries that use Chat Completions. The client keeps the messages, and sends all messages with each request."""

import json
import re
from collections import Counter
from typing import Any

import httpx
import pytest

from tests.clients.conftest import Runs, key
from tests.clients.expected_items import FIRST, QUESTIONS, REASONING, SECOND, Item, stored, turns
from tests.clients.recipe import is_chat, names
from tests.clients.recording_proxy import RecordingProxy
from tests.scripted_provider import ScriptedProvider
from tests.system import System

SLOW = frozenset({"aider/chat.sh"})
ANSWER = re.compile(
    r"You have not told me\.|Your name is Ada\.|I was shown \d+ messages\.|The tool says: sunny in Paris\."
)
_OF_THE_STORE = frozenset({"stream", "stream_options", "store", "metadata"})
"""Parameters that the store changes or does not send."""


def chat_recipes() -> list[Any]:
    """The slow recipes run with `-m endless`."""
    return [
        pytest.param(name, marks=pytest.mark.endless if name in SLOW else pytest.mark.clients)
        for name in names()
        if is_chat(name)
    ]


@pytest.mark.parametrize("name", chat_recipes())
def test_the_conversation_of_a_client_has_each_message_once_and_in_order(
    name: str, store: System, proxies: dict[str, RecordingProxy], provider: ScriptedProvider, runs: Runs
) -> None:
    answers = _ANSWERS.get(name, [FIRST, SECOND])
    assert [[line for line in lines if ANSWER.fullmatch(line)] for lines in (runs.first, runs.second)] == answers
    sent = proxies[name].sent
    assert {request.status for request in sent} == {200}
    assert not Counter(_for_provider(request.body) for request in sent) - Counter(
        _for_provider(body) for body in provider.requests
    )

    [conversation_id] = {request.conversation for request in sent}
    assert conversation_id is not None
    with httpx.Client(base_url=store.base_url, headers={"authorization": f"Bearer {key(name)}"}) as http:
        assert [listed["id"] for listed in http.get("/v1/conversations").json()["data"]] == [conversation_id]
        assert stored(http, conversation_id) == _ITEMS.get(name, _items)(answers)


def _for_provider(body: dict[str, Any]) -> str:
    """What the provider must get."""
    return json.dumps({name: value for name, value in body.items() if name not in _OF_THE_STORE}, sort_keys=True)


def _items(answers: list[list[str]]) -> list[Item]:
    return [item for of_run in answers for item in turns(of_run)]


def _items_of_tool_agent(answers: list[list[str]]) -> list[Item]:
    """The items of an agent that calls `final_answer`."""
    items: list[Item] = []
    output = ""
    for question, answer in zip(QUESTIONS * 2, answers[0] + answers[1], strict=True):
        items += [("user", f"{output}New task:\n{question}"), *_reasoning(question)]
        if "weather" in question:
            items += [("function_call", {"city": "Paris"}), ("user", "Observation:\nsunny in Paris")]
        items.append(("function_call", {"answer": answer}))
        output = f"Observation:\n{answer}\n"
    return items


def _items_of_code_agent(answers: list[list[str]]) -> list[Item]:
    """The items of an agent that answers with Python."""
    items: list[Item] = []
    output = ""
    observed = "Observation:\nExecution logs:\n{}Last output from code snippet:\n{}"
    for question, answer in zip(QUESTIONS * 2, answers[0] + answers[1], strict=True):
        items += [("user", f"{output}New task:\n{question}"), *_reasoning(question)]
        if "weather" in question:
            items.append(("assistant", 'I write code.\n<code>\nprint(weather("Paris"))\n'))
            items.append(("user", observed.format("sunny in Paris\n", "None")))
        items.append(("assistant", f"I write code.\n<code>\nfinal_answer({answer!r})\n"))
        output = observed.format("", f"{answer}\n")
    return items


def _items_of_aider(answers: list[list[str]]) -> list[Item]:
    """The items of aider, which sends each question with a reminder."""
    items: list[Item] = []
    for of_run in answers:
        items += [("user", "I am not sharing the full contents of any files with you yet."), ("assistant", "Ok.")]
        for question, answer in zip(QUESTIONS, of_run, strict=True):
            items += [("user", f"{question}\n\nReply in English.\n"), *_reasoning(question), ("assistant", answer)]
    return items


def _reasoning(question: str) -> list[Item]:
    return [("reasoning", REASONING)] if "Think" in question else []


_ITEMS = {
    "smolagents/chat.py": _items_of_tool_agent,
    "smolagents/chat_code.py": _items_of_code_agent,
    "aider/chat.sh": _items_of_aider,
}
_OF_AGENTS = [FIRST, [SECOND[0], "I was shown 11 messages.", SECOND[2]]]
_ANSWERS = {
    "smolagents/chat.py": _OF_AGENTS,
    "smolagents/chat_code.py": _OF_AGENTS,
    "aider/chat.sh": [
        [FIRST[0], "I was shown 5 messages.", "I was shown 7 messages."],
        [SECOND[0], "I was shown 11 messages.", "I was shown 13 messages."],
    ],
}
"""The answers to clients that also send other messages."""
