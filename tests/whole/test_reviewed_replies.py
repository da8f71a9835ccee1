"""Replies whose client, conversation or process goes away in an unlucky moment."""

import asyncio
import signal
import time

import httpx
import psycopg
import pytest

from domain.events import REPLY_ENDS, ReplyInterrupted
from tests.commands.replying import until_over
from tests.log import Log
from tests.scripted_provider import ScriptedProvider
from tests.system import System
from tests.whole.streams import Follower, endless, talkative

UP = ("--apis", "2")
WITH_PROVIDER = True


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_hangs_up_before_its_request_is_on_record_leaves_no_reply_running(
    running: System, http: httpx.AsyncClient, urls: list[str], provider: ScriptedProvider, stream: bool
) -> None:
    provider.script = endless
    conversation = (await http.post(f"{urls[0]}/v1/conversations", json={})).json()["id"]
    body = {"input": "go", "stream": stream, "conversation": conversation}
    async with await psycopg.AsyncConnection.connect(running.env["POSTGRES_URL"]) as connection:
        await connection.execute("LOCK TABLE append_turn IN EXCLUSIVE MODE")
        with pytest.raises(httpx.ReadTimeout):
            await http.post(f"{urls[0]}/v1/responses", json=body, timeout=1.0)
        await asyncio.sleep(0.5)
    await until_ended(running, conversation)
    end = Log(running.env["POSTGRES_URL"]).events(conversation)[-1]
    assert isinstance(end, ReplyInterrupted)
    assert end.code == "client_closed"


async def test_a_reply_whose_conversation_is_deleted_stops_and_its_stream_ends(
    http: httpx.AsyncClient, urls: list[str], provider: ScriptedProvider
) -> None:
    provider.script = endless
    provider.disconnected.clear()
    conversation = (await http.post(f"{urls[0]}/v1/conversations", json={})).json()["id"]
    first, second = Follower(), Follower()
    asking = asyncio.create_task(first.ask(http, urls[0], {"input": "go", "conversation": conversation}))
    await until_over(lambda: True if len(first.events) > 5 else None)
    second.events = first.events[:1]
    following = asyncio.create_task(second.resume(http, urls[1]))
    assert (await http.delete(f"{urls[1]}/v1/conversations/{conversation}")).status_code == 200
    assert await asyncio.to_thread(provider.disconnected.wait, 8)
    ended = await asyncio.wait_for(asyncio.gather(asking, following, return_exceptions=True), 8)
    assert [each for each in ended if isinstance(each, TimeoutError)] == []
    assert (await http.get(f"{urls[0]}/v1/responses/{first.response_id}")).status_code == 404


async def test_a_process_that_was_frozen_ends_nothing_that_others_have_ended(
    running: System, http: httpx.AsyncClient, urls: list[str], provider: ScriptedProvider
) -> None:
    provider.script = endless
    conversation = (await http.post(f"{urls[0]}/v1/conversations", json={})).json()["id"]
    home, other = Follower(), Follower()
    asking = asyncio.create_task(home.ask(http, urls[0], {"input": "go", "conversation": conversation}))
    await until_over(lambda: True if len(home.events) > 10 else None)
    other.events = home.events[:1]
    following = asyncio.create_task(other.resume(http, urls[1]))
    running.kill("api", signal.SIGSTOP)
    try:
        await until_ended(running, conversation)
        await asyncio.wait_for(following, 10)
        provider.script = talkative(1)
        turn = await http.post(f"{urls[1]}/v1/responses", json={"input": "go on", "conversation": conversation})
        assert turn.json()["status"] == "completed", turn.text
    finally:
        running.kill("api", signal.SIGCONT)
    began = time.monotonic()
    await asyncio.gather(asking, return_exceptions=True)
    assert time.monotonic() - began < 10
    stored = (await http.get(f"{urls[1]}/v1/responses/{home.response_id}")).json()
    assert stored["status"] == "incomplete"
    assert other.events[-1]["response"] == stored
    again = Follower()
    again.events = other.events[:1]
    await again.resume(http, urls[0])
    assert again.events == other.events
    events = Log(running.env["POSTGRES_URL"]).events(conversation)
    assert sum(isinstance(event, REPLY_ENDS) for event in events) == 2


async def until_ended(running: System, conversation: str) -> None:
    log = Log(running.env["POSTGRES_URL"])
    await until_over(lambda: True if any(isinstance(e, REPLY_ENDS) for e in log.events(conversation)) else None, 15)
