"""A client that goes away in the middle of a stream, and an api process that is told to stop: the end is on record."""

import json
import signal
import threading

import httpx2
import pytest
from openai import APITimeoutError, OpenAI, OpenAIError

from domain.events import ReplyInterrupted
from tests.log import Log
from tests.scripted_provider import Exchange, ScriptedProvider
from tests.servers import wait_until
from tests.system import System
from tests.whole.streams import endless

WITH_PROVIDER = True


def cut_off(running: System, conversation_id: str) -> ReplyInterrupted | None:
    last = Log(running.env["POSTGRES_URL"]).events(conversation_id)[-1]
    return last if isinstance(last, ReplyInterrupted) else None


def test_a_client_that_hangs_up_stops_the_provider_and_what_came_is_kept(
    running: System, client: OpenAI, provider: ScriptedProvider
) -> None:
    working, provider.script = provider.script, endless
    conversation = client.conversations.create()
    stream = client.responses.create(input="go", conversation=conversation.id, stream=True)
    for event in stream:
        if event.type == "response.output_text.delta" and event.delta == "5 ":
            break
    stream.close()
    assert provider.disconnected.wait(10)
    wait_until(lambda: cut_off(running, conversation.id), 10, "the reply's end on record")
    end = cut_off(running, conversation.id)
    assert end is not None
    assert end.code == "client_closed"
    [said] = end.output
    assert json.loads(said.item)["content"][0]["text"].startswith("0 1 2 3 4 5 ")
    provider.script = working
    reply = client.responses.create(input="again", conversation=conversation.id)
    assert reply.output_text == "Hello, world!"


def test_a_client_that_hangs_up_on_a_whole_answer_stops_the_provider_too(
    running: System, client: OpenAI, provider: ScriptedProvider
) -> None:
    working, provider.script = provider.script, endless
    provider.disconnected.clear()
    conversation = client.conversations.create()
    with pytest.raises(APITimeoutError):
        client.responses.create(input="go", conversation=conversation.id, timeout=1.0)
    assert provider.disconnected.wait(10)
    wait_until(lambda: cut_off(running, conversation.id), 10, "the reply's end on record")
    provider.script = working


def test_a_key_keeps_nothing_going_that_is_not_stored(
    running: System, client: OpenAI, provider: ScriptedProvider
) -> None:
    working, provider.script = provider.script, endless
    provider.disconnected.clear()
    key = {"Idempotency-Key": "nothing-to-come-back-to"}
    with pytest.raises(APITimeoutError):
        client.responses.create(input="go", store=False, timeout=1.0, extra_headers=key)
    assert provider.disconnected.wait(10)
    provider.script = working


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
def test_an_api_that_is_told_to_stop_in_the_middle_of_a_reply_puts_its_end_on_record(
    running: System, client: OpenAI, provider: ScriptedProvider, streamed: bool
) -> None:
    working, provider.script = provider.script, endless
    conversation = client.conversations.create()
    asked_before = len(provider.requests)

    def ask() -> None:
        try:
            if streamed:
                list(client.responses.create(input="go", conversation=conversation.id, stream=True))
            else:
                client.responses.create(input="go", conversation=conversation.id)
        except (OpenAIError, httpx2.HTTPError):
            return  # the server went away, as it was told

    asking = threading.Thread(target=ask)
    asking.start()
    wait_until(lambda: len(provider.requests) > asked_before, 10, "the provider to be asked")
    old = running.kill("api", signal.SIGTERM)
    running.wait_restarted("api", old)
    asking.join(30)
    provider.script = working
    running.wait_ready()
    wait_until(lambda: cut_off(running, conversation.id), 20, "the reply's end on record")
    assert client.responses.create(input="again", conversation=conversation.id).output_text == "Hello, world!"


def test_a_client_that_comes_back_with_its_key_gets_the_whole_reply(
    running: System, client: OpenAI, provider: ScriptedProvider
) -> None:
    def slowly(exchange: Exchange) -> None:
        exchange.begin_stream()
        pause = threading.Event()
        for n in range(60):
            exchange.text_chunk(f"{n} ")
            pause.wait(0.01)
        exchange.text_chunk(finish_reason="stop")
        exchange.end_stream()

    working, provider.script = provider.script, slowly
    asked_before = len(provider.requests)
    conversation = client.conversations.create()
    key = {"Idempotency-Key": "come-back"}
    stream = client.responses.create(input="go", conversation=conversation.id, stream=True, extra_headers=key)
    for event in stream:
        if event.type == "response.output_text.delta" and event.delta == "5 ":
            break
    stream.close()
    again = client.responses.create(input="go", conversation=conversation.id, stream=True, extra_headers=key)
    events = list(again)
    provider.script = working
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert deltas == [f"{n} " for n in range(60)]
    assert events[-1].type == "response.completed"
    assert len(provider.requests) == asked_before + 1
