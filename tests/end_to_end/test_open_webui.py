"""Open WebUI, a chat interface, speaks only Chat Completions. Each of its chats becomes one conversation."""

import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.clients.scripted_assistant import assistant
from tests.end_to_end.open_webui import MODEL, TASKS, OpenWebUI
from tests.scripted_provider import Exchange, ScriptedProvider
from tests.servers import wait_until
from tests.system import System

WITH_PROVIDER = True
UP = ("--no-model",)
ENVIRONMENT = {"DEFAULT_MODEL": MODEL}


def script(exchange: Exchange) -> None:
    if "<chat_history>" in exchange.body["messages"][-1]["content"]:
        exchange.stream_text('{ "title": ', '"A chat" }')
    else:
        assistant(exchange)


@pytest.fixture
def http(running: System, provider: ScriptedProvider) -> Iterator[httpx.Client]:
    provider.script = script
    provider.models = [MODEL]
    provider.requests.clear()
    with httpx.Client(base_url=running.base_url, timeout=60) as http:
        yield http


@pytest.fixture
def chat(http: httpx.Client, provider: ScriptedProvider) -> Iterator[OpenWebUI]:
    """At the end, the provider must have got all messages as they were sent."""
    now = itertools.count()
    chat = OpenWebUI(http, lambda: f"You are helpful. It is 10:{next(now):02d}.")
    yield chat
    assert [request["messages"] for request in provider.requests] == chat.sent


def test_a_chat_is_one_conversation_and_its_background_calls_are_not_listed(
    http: httpx.Client, chat: OpenWebUI
) -> None:
    before = listed(http)
    first = chat.ask("I collect stamps.")
    assert listed(http) == before
    for task in TASKS:
        assert chat.background(task).conversation != first.conversation
    answers = [chat.ask(f"Stamp {number}?") for number in range(3)]
    chat.background("follow_ups")
    assert {answer.conversation for answer in answers} == {first.conversation}
    assert listed(http) == [first.conversation, *before]
    assert items(http, first.conversation) == texts(chat)
    assert len(chat.messages) == 8


def test_two_chats_that_begin_with_the_same_words_are_two_conversations(http: httpx.Client, chat: OpenWebUI) -> None:
    first = chat.ask("Hi, I collect coins.")
    chat.messages = []
    second = chat.ask("Hi, I collect coins.")
    assert first.conversation != second.conversation
    assert items(http, second.conversation) == texts(chat)


def test_the_first_and_the_regenerated_answer_can_both_be_continued(http: httpx.Client, chat: OpenWebUI) -> None:
    first = chat.ask("I grow apples.")
    chat.ask("Red ones.")
    old = list(chat.messages)
    assert chat.regenerate().conversation == first.conversation
    assert chat.ask("Green ones.").conversation == first.conversation
    assert items(http, first.conversation) == texts(chat)

    chat.messages = old
    assert chat.ask("Yellow ones.").conversation == first.conversation
    assert items(http, first.conversation) == texts(chat)


def test_an_edited_question_continues_from_the_answer_before_it(http: httpx.Client, chat: OpenWebUI) -> None:
    first = chat.ask("I grow pears.")
    chat.ask("Small ones.")
    chat.ask("Smaller ones.")
    old = texts(chat)
    assert chat.edit(2, "Big ones.").conversation == first.conversation
    assert chat.ask("Bigger ones.").conversation == first.conversation
    assert items(http, first.conversation) == texts(chat)
    assert items(http, first.conversation, branch=0) == old


def test_questions_with_files_are_stored_once_as_first_sent(http: httpx.Client, chat: OpenWebUI) -> None:
    first = chat.ask("What do my notes say?", sources="The sky is green.")
    chat.background("queries")
    questions = [chat.sent[0][-1]["content"]]
    for question, sources in (("Really?", "Grass is blue."), ("And snow?", "Snow is pink.")):
        assert chat.ask(question, sources=sources).conversation == first.conversation
        questions.append(chat.sent[-1][-1]["content"])
    assert chat.ask("Thank you.").conversation == first.conversation
    questions.append("Thank you.")
    answers = [message["content"] for message in chat.messages if message["role"] == "assistant"]
    turns = zip(questions, answers, strict=True)
    assert items(http, first.conversation) == [
        text for question, answer in turns for text in (("user", question), ("assistant", answer))
    ]


def test_the_steps_of_a_tool_loop_are_stored_once(http: httpx.Client, chat: OpenWebUI) -> None:
    tools: dict[str, Callable[..., str]] = {"weather": lambda city: f"sunny in {city}"}
    first = chat.ask("I go to Paris.")
    for question in ("How is the weather?", "How is the weather now?"):
        steps = list(chat.ask_with_tools(question, tools))
        assert [len(step.calls) for step in steps] == [1, 0]
        assert {step.conversation for step in steps} == {first.conversation}
    assert chat.ask("I pack light.").conversation == first.conversation
    assert items(http, first.conversation) == texts(chat)


def test_a_stopped_answer_is_stored_as_the_chat_has_it(
    http: httpx.Client, chat: OpenWebUI, provider: ScriptedProvider
) -> None:
    first = chat.ask("I sail.")
    go_on = threading.Event()

    def slow(exchange: Exchange) -> None:
        exchange.begin_stream()
        for word in ("One ", "long ", "answer "):
            exchange.text_chunk(word)
        go_on.wait(10)

    provider.script = slow
    chat.stop("Tell me more.", words=2)
    assert chat.messages[-1]["content"].split()[:2] == ["One", "long"]
    wait_until(lambda: last_status(http, first.conversation) == "incomplete", 10, "the end of the reply")
    go_on.set()
    provider.script = script
    assert chat.ask("Shorter, please.").conversation == first.conversation
    assert items(http, first.conversation) == texts(chat)


def test_a_stopped_answer_can_be_continued(http: httpx.Client, chat: OpenWebUI) -> None:
    first = chat.ask("I ski.")
    chat.messages += [{"role": "user", "content": "Tell me more."}, {"role": "assistant", "content": "Skis are "}]
    assert chat.continue_answer().conversation == first.conversation
    assert chat.messages[-1]["content"] == "Skis are I was shown 4 messages."
    boots = chat.ask("And boots?")  # sends both parts of the answer as one message
    assert boots.conversation == first.conversation
    assert items(http, first.conversation) == texts(chat)


def listed(http: httpx.Client) -> list[str]:
    """The ids of the listed conversations, newest first."""
    answer = http.get("/v1/conversations", params={"limit": 100}).raise_for_status().json()
    return [conversation["id"] for conversation in answer["data"]]


def last_status(http: httpx.Client, conversation_id: str) -> str:
    answer = http.get(f"/v1/conversations/{conversation_id}/responses", params={"limit": 1}).raise_for_status()
    return str(answer.json()["data"][0]["status"])


def items(http: httpx.Client, conversation_id: str, **where: int) -> list[tuple[str, str]]:
    """(role, text) of each item, oldest first. `where`: parameters that choose another path than the active one."""
    path = f"/v1/conversations/{conversation_id}/items"
    answer = http.get(path, params={"order": "asc", "limit": 100, **where}).raise_for_status().json()
    assert not answer["has_more"]
    return [_stored(item) for item in answer["data"]]


def _stored(item: dict[str, Any]) -> tuple[str, str]:
    match item["type"]:
        case "message":
            return item["role"], "".join(part["text"] for part in item["content"])
        case "function_call":
            return "call", item["arguments"]
        case _:
            return "tool", item["output"]


def texts(chat: OpenWebUI) -> list[tuple[str, str]]:
    """The messages of the chat, in the form of `items`."""
    found: list[tuple[str, str]] = []
    for message in chat.messages:
        if message["content"]:
            found.append((message["role"], message["content"]))
        found += [("call", call["function"]["arguments"]) for call in message.get("tool_calls", ())]
    return found
