"""A client disconnects during a reply, or the api process is stopped."""

import json
import signal
import threading
import time
from functools import partial
from typing import Any

import httpx2
import psycopg
import pytest
from openai import APITimeoutError, OpenAI, OpenAIError

from domain.events import REPLY_ENDS, ReplyInterrupted
from tests.end_to_end.reply_streams import endless_answer
from tests.log import Log
from tests.scripted_provider import Exchange, ScriptedProvider
from tests.servers import wait_until
from tests.system import System

WITH_PROVIDER = True


def responses_of(client: OpenAI, conversation_id: str) -> list[Any]:
    """The responses with their input, newest first."""
    page: Any = client.get(f"/conversations/{conversation_id}/responses", cast_to=object)
    return list(page["data"])


def interruption(running: System, conversation_id: str) -> ReplyInterrupted | None:
    """The conversation's last event. None if it is no ReplyInterrupted."""
    last = Log(running.env["POSTGRES_URL"]).events(conversation_id)[-1]
    return last if isinstance(last, ReplyInterrupted) else None


def test_a_client_that_leaves_a_stream_stops_the_provider_and_keeps_the_partial_text(
    running: System, client: OpenAI, provider: ScriptedProvider
) -> None:
    usual, provider.script = provider.script, endless_answer
    conversation = client.conversations.create()
    stream = client.responses.create(input="go", conversation=conversation.id, stream=True)
    for event in stream:
        if event.type == "response.output_text.delta" and event.delta == "5 ":
            break
    stream.close()
    assert provider.disconnected.wait(10)
    wait_until(lambda: interruption(running, conversation.id), 10, "the reply's end to be recorded")
    end = interruption(running, conversation.id)
    assert end is not None
    assert end.code == "client_closed"
    [message] = end.output
    assert json.loads(message.item)["content"][0]["text"].startswith("0 1 2 3 4 5 ")
    provider.script = usual
    reply = client.responses.create(input="again", conversation=conversation.id)
    assert reply.output_text == "Hello, world!"
    listed = responses_of(client, conversation.id)
    assert [(response["status"], response["input"][0]["content"][0]["text"]) for response in listed] == [
        ("completed", "again"),
        ("incomplete", "go"),
    ]


def test_a_client_that_leaves_before_an_unstreamed_answer_stops_the_provider(
    running: System, client: OpenAI, provider: ScriptedProvider
) -> None:
    usual, provider.script = provider.script, endless_answer
    provider.disconnected.clear()
    conversation = client.conversations.create()
    with pytest.raises(APITimeoutError):
        client.responses.create(input="go", conversation=conversation.id, timeout=1.0)
    assert provider.disconnected.wait(10)
    wait_until(lambda: interruption(running, conversation.id), 10, "the reply's end to be recorded")
    provider.script = usual


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "not streamed"])
def test_a_client_that_leaves_before_its_request_is_recorded_leaves_no_running_reply(
    running: System, provider: ScriptedProvider, streamed: bool
) -> None:
    usual, provider.script = provider.script, endless_answer
    url = running.env["API_1_URL"]
    conversation_id = httpx2.post(f"{url}/v1/conversations", json={}).json()["id"]
    body = {"input": "go", "stream": streamed, "conversation": conversation_id}
    with psycopg.connect(running.env["POSTGRES_URL"]) as connection:
        connection.execute("LOCK TABLE append_turn IN EXCLUSIVE MODE")
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.post(f"{url}/v1/responses", json=body, timeout=1.0)
        time.sleep(0.5)
    log = Log(running.env["POSTGRES_URL"])
    wait_until(lambda: isinstance(log.events(conversation_id)[-1], REPLY_ENDS), 15, "the reply's end to be recorded")
    end = interruption(running, conversation_id)
    assert end is not None
    assert end.code == "client_closed"
    provider.script = usual


def test_an_idempotency_key_does_not_keep_an_unstored_reply_running(
    running: System, client: OpenAI, provider: ScriptedProvider
) -> None:
    usual, provider.script = provider.script, endless_answer
    provider.disconnected.clear()
    key = {"Idempotency-Key": "not-stored"}
    with pytest.raises(APITimeoutError):
        client.responses.create(input="go", store=False, timeout=1.0, extra_headers=key)
    assert provider.disconnected.wait(10)
    provider.script = usual


def test_an_api_that_is_stopped_records_the_ends_of_its_replies(
    running: System, client: OpenAI, provider: ScriptedProvider
) -> None:
    usual, provider.script = provider.script, endless_answer
    streamed, unstreamed = client.conversations.create().id, client.conversations.create().id
    requests_before = len(provider.requests)

    def ask(conversation_id: str) -> None:
        try:
            if conversation_id == streamed:
                list(client.responses.create(input="go", conversation=conversation_id, stream=True))
            else:
                client.responses.create(input="go", conversation=conversation_id)
        except (OpenAIError, httpx2.HTTPError):
            return  # the server was stopped

    threads = [threading.Thread(target=ask, args=[conversation_id]) for conversation_id in (streamed, unstreamed)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(provider.requests) == requests_before + 2, 10, "two requests to the provider")
    old = running.kill("api", signal.SIGTERM)
    running.wait_restarted("api", old)
    for thread in threads:
        thread.join(30)
    provider.script = usual
    running.wait_ready()
    for conversation_id in (streamed, unstreamed):
        wait_until(partial(interruption, running, conversation_id), 20, "the reply's end to be recorded")
        assert client.responses.create(input="again", conversation=conversation_id).output_text == "Hello, world!"


def test_a_client_that_repeats_its_request_with_its_key_gets_the_complete_stream(
    running: System, client: OpenAI, provider: ScriptedProvider
) -> None:
    def slowly(exchange: Exchange) -> None:
        exchange.begin_stream()
        for n in range(60):
            exchange.text_chunk(f"{n} ")
            time.sleep(0.01)
        exchange.text_chunk(finish_reason="stop")
        exchange.end_stream()

    usual, provider.script = provider.script, slowly
    requests_before = len(provider.requests)
    conversation = client.conversations.create()
    key = {"Idempotency-Key": "repeated"}
    stream = client.responses.create(input="go", conversation=conversation.id, stream=True, extra_headers=key)
    for event in stream:
        if event.type == "response.output_text.delta" and event.delta == "5 ":
            break
    stream.close()
    repeated = client.responses.create(input="go", conversation=conversation.id, stream=True, extra_headers=key)
    events = list(repeated)
    provider.script = usual
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert deltas == [f"{n} " for n in range(60)]
    assert events[-1].type == "response.completed"
    assert len(provider.requests) == requests_before + 1
