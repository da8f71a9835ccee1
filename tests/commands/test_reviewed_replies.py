"""Replies where a review found them wanting: requests that upset the store, and ends that come in an unlucky moment."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest

from domain.commands import RequestReply, StartConversation
from domain.events import ReplyInterrupted, Shown
from infrastructure.access.principal import DEFAULT
from infrastructure.event_log.append_request import AppendRequest
from infrastructure.event_log.log import EventLog
from infrastructure.ids import mint, mint_uuid, uuid_of
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from infrastructure.stores import redis
from infrastructure.stores.postgres import Pool, make_pool
from replies import live_events
from replies.active_replies import ActiveReplies
from replies.leases import ALIVE_SECONDS, ReplyLeases
from replies.orphaned_replies import OrphanedReplies
from replies.output import Output, events_of_partial_output
from replies.provider.stream_parts import ItemDelta, ItemDone, ItemStarted, StreamPart
from tests.commands.replying import ask, asked, error_of, events_of, open_api, until_over
from tests.commands.test_conversations import create
from tests.log import Log
from tests.scripted_provider import Exchange, ScriptedProvider, SlowModels

WITH_PROVIDER = {"model_window": 100_000}


@pytest.fixture
async def apis(
    settings: Settings, provider: ScriptedProvider, api: httpx.AsyncClient
) -> AsyncIterator[list[httpx.AsyncClient]]:
    """Two processes' command APIs."""
    async with open_api(settings.model_copy(update={"openai_base_url": provider.url, **WITH_PROVIDER})) as other:
        yield [api, other]


def function(**schema: Any) -> dict[str, Any]:
    return {"type": "function", "name": "f", "parameters": {"type": "object", **schema}}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": [{"type": "web_search", "name": ["x"]}]}, "tools[0].type"),
        ({"tools": [function()], "tool_choice": {"type": "function", "name": {}}}, "tool_choice.name"),
        ({"tools": [function(pattern="a{99999999999}")]}, "tools[0].parameters"),
        ({"text": {"format": {"type": "json_schema", "name": "n", "schema": []}}}, "text.format.schema"),
    ],
)
async def test_whatever_a_tool_is_called_and_a_schema_holds_the_answer_names_it(
    api: httpx.AsyncClient, log: Log, body: dict[str, Any], param: str
) -> None:
    answer = await api.post("/v1/responses", json={"input": "hi", **body})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
    assert log.count() == 0


async def test_schemas_of_any_size_keep_nobody_else_waiting(api: httpx.AsyncClient) -> None:
    large = {f"p{n}": {"type": "string"} for n in range(4_000)}
    checked = asyncio.create_task(ask(api, "hi", tools=[function(properties=large)]))
    began, longest = time.monotonic(), 0.0
    while not checked.done():
        since = time.monotonic()
        await asyncio.sleep(0.01)
        longest = max(longest, time.monotonic() - since)
    assert longest < (time.monotonic() - began) / 3
    assert (await checked).status_code in (200, 400)  # it may not fit into the model
    too_large = await ask(api, "hi", tools=[function(properties={**large, "p": {"enum": ["x" * 300_000]}})])
    assert error_of(too_large) == (400, "invalid_function_parameters", "tools[0].parameters")


async def asked_in(settings: Settings, owner: UUID, count: int = 1) -> list[str]:
    """Conversations with a reply each, that was asked for in the process `owner` and runs nowhere."""
    events = EventLog(settings.postgres_url, Metrics(), owner=owner)
    events.open()
    conversations = [mint("conv") for _ in range(count)]
    for conversation_id in conversations:
        request = RequestReply(
            response_id=mint("resp"),
            model="m",
            parameters=b"{}",
            input=(),
            shown=Shown(version=0, ranges=(), budget=1, tokens=1, encoding="", renderer=2, request_sha256=b""),
            start=StartConversation(conversation_id=conversation_id, tenant=DEFAULT.tenant, owner="ann"),
        )
        work = AppendRequest(
            principal=DEFAULT,
            conversation_id=conversation_id,
            command=request,
            command_id=mint_uuid(),
            correlation_id="req_1",
        )
        await events.append(work)
    await events.close()
    return conversations


@asynccontextmanager
async def another(settings: Settings) -> AsyncIterator[Pool]:
    """Another process, that looks after replies which run nowhere; and its pool."""
    pool = make_pool(settings.postgres_url)
    await pool.open(wait=True)
    client, events = redis.connect(settings, answer_seconds=0.5), EventLog(settings.postgres_url, Metrics())
    events.open()
    leases = ReplyLeases(pool, mint_uuid())
    running = ActiveReplies(leases, OrphanedReplies(leases, events, client))
    running.open()
    try:
        yield pool
    finally:
        await running.close()
        await events.close()
        await client.aclose()
        await pool.close()


async def until_ended(log: Log, conversation_id: str, seconds: float) -> None:
    await until_over(lambda: True if isinstance(log.events(conversation_id)[-1], ReplyInterrupted) else None, seconds)


async def test_a_conversation_that_can_not_be_read_keeps_no_other_locked(settings: Settings, log: Log) -> None:
    spoiled, sound = await asked_in(settings, mint_uuid(), 2)
    async with await psycopg.AsyncConnection.connect(settings.postgres_url) as connection:
        spoil = "UPDATE events SET state = '\\x0f'::bytea WHERE originator_id = %s"
        await connection.execute(spoil, (uuid_of(spoiled),))
    async with another(settings):
        await until_ended(log, sound, 3 * ALIVE_SECONDS)


async def test_a_postgres_that_stood_still_costs_no_reply_whose_process_is_alive(settings: Settings, log: Log) -> None:
    owner = mint_uuid()
    [conversation_id] = await asked_in(settings, owner)
    pool = make_pool(settings.postgres_url)
    await pool.open(wait=True)
    leases = ReplyLeases(pool, owner)

    async def alive(seconds: float) -> None:
        async with asyncio.timeout(seconds):
            while True:
                await leases.renew()
                await asyncio.sleep(0.5)

    async with another(settings):
        with suppress(TimeoutError):
            await alive(ALIVE_SECONDS + 2)
        async with await psycopg.AsyncConnection.connect(settings.postgres_url) as connection:
            await connection.execute("LOCK TABLE api_processes IN ACCESS EXCLUSIVE MODE")
            await asyncio.sleep(ALIVE_SECONDS + 1)
        await asyncio.sleep(0.4)  # this process is a little later than the other to say that it is alive
        with suppress(TimeoutError):
            await alive(2)
        assert log.topics(conversation_id)[-1] == "reply.requested"
        await until_ended(log, conversation_id, 3 * ALIVE_SECONDS)
    await pool.close()


async def test_many_replies_to_be_ended_while_redis_hangs_do_not_make_their_finder_count_as_dead(
    settings: Settings, log: Log
) -> None:
    conversations = await asked_in(settings, mint_uuid(), 12)
    connections: list[asyncio.StreamWriter] = []

    async def hangs(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)

    server = await asyncio.start_server(hangs, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    longest = 0.0
    async with another(settings.model_copy(update={"redis_url": f"redis://127.0.0.1:{port}"})):
        deadline = time.monotonic() + 60
        while any(log.topics(each)[-1] == "reply.requested" for each in conversations):
            assert time.monotonic() < deadline
            [(late,)] = log.rows(
                "SELECT 5 - extract(epoch FROM alive_until - clock_timestamp()) FROM api_processes"
            ) or [(0,)]
            longest = max(longest, float(late))
            await asyncio.sleep(0.1)
    for writer in connections:
        writer.close()
    server.close()
    assert longest < ALIVE_SECONDS / 2


_REFUSE = """
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'data_exception'; END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON events FOR EACH ROW
        WHEN (NEW.topic IN ('reply.completed', 'reply.failed')) EXECUTE FUNCTION refuse()
"""


async def test_a_stream_whose_end_the_log_will_not_take_says_so(api: httpx.AsyncClient, settings: Settings) -> None:
    await asked(api, "the schema is there")
    async with await psycopg.AsyncConnection.connect(settings.postgres_url, autocommit=True) as connection:
        await connection.execute(_REFUSE)
        try:
            events = events_of(await ask(api, "hi", stream=True))
            whole = await ask(api, "hi")
        finally:
            await connection.execute("DROP FUNCTION refuse CASCADE")
    assert events[-1]["type"] == "error"
    assert whole.status_code == 503


async def test_as_many_as_like_follow_replies_that_say_nothing(settings: Settings) -> None:
    client = redis.connect(settings)

    async def followed(number: int) -> list[tuple[int, bytes]]:
        return [each async for each in live_events.read_events(client, f"resp_{number}", -1)]

    assert await asyncio.gather(*map(followed, range(200))) == [[]] * 200
    await client.aclose()


@pytest.mark.parametrize("kind", ["message", "function_call", "custom_tool_call", "reasoning", "web_search_call"])
@pytest.mark.parametrize("whole", [True, False])
def test_a_reply_that_was_cut_off_has_the_events_again_that_it_had(kind: str, whole: bool) -> None:
    items: dict[str, dict[str, Any]] = {
        "message": {"role": "assistant"},
        "function_call": {"call_id": "c", "name": "f"},
        "custom_tool_call": {"call_id": "c", "name": "f"},
        "web_search_call": {"status": "in_progress", "action": {"query": "q"}},
    }
    output = Output()
    pieces: list[StreamPart] = [ItemStarted({"type": "reasoning"}), ItemDelta("so"), ItemDone({"summary": []})]
    pieces.append(ItemStarted({"type": kind, **items.get(kind, {})}))
    if kind != "web_search_call":
        pieces += [ItemDelta("a"), ItemDelta("bc")]
    if whole:
        pieces.append(ItemDone({"status": "completed"} if kind == "web_search_call" else {}))
    told = [event for piece in pieces for event in output.add(piece)]
    assert list(events_of_partial_output(output.items(), output.delta_lengths)) == told


async def test_replies_that_fail_one_after_the_other_do_not_add_up_to_more_than_a_view_can_hold(
    api: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    def breaks_off(exchange: Exchange) -> None:
        exchange.begin_stream()

    provider.script = breaks_off
    image = {"type": "input_image", "image_url": f"data:image/png;base64,{'A' * 970_000}"}
    given = [{"role": "user", "content": [image]}] * 4
    previous: dict[str, str] = {}
    answers = []
    for _ in range(3):
        answers.append(await api.post("/v1/responses", json={"input": given, "stream": True, **previous}))
        if answers[-1].status_code == 200:
            previous = {"previous_response_id": events_of(answers[-1])[0]["response"]["id"]}
    assert [answer.status_code for answer in answers] == [200, 200, 413]
    assert error_of(answers[-1]) == (413, "request_too_large", "previous_response_id")


async def test_who_cancels_as_a_reply_completes_learns_which_of_the_two_it_was(
    apis: list[httpx.AsyncClient], log: Log
) -> None:
    async def raced(number: int) -> None:
        queued = (await ask(apis[0], "hi", background=True)).json()
        await asyncio.sleep(0.003 * number)
        path = f"/v1/responses/{queued['id']}/cancel"
        answers = await asyncio.gather(*(api.post(path) for api in apis))
        topics = log.topics(queued["conversation"]["id"])
        ends = [topic for topic in topics if topic in ("reply.completed", "reply.cancelled", "reply.interrupted")]
        assert len(ends) == 1
        for answer in answers:
            if answer.status_code == 200:
                assert answer.json()["status"] == ends[0].removeprefix("reply.")
            else:
                assert error_of(answer) == (400, "response_over", "response_id")
                assert ends == ["reply.completed"]

    await asyncio.gather(*map(raced, range(40)))


CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "42"}


@pytest.mark.parametrize(
    ("given", "headers"), [("hi", {"If-Match": '"2"'}), ([RESULT], {})], ids=["a condition", "an output"]
)
async def test_when_a_repeat_comes_while_the_first_is_carried_out_then_it_has_the_first_ones_answer(
    apis: list[httpx.AsyncClient], provider: ScriptedProvider, given: Any, headers: dict[str, str]
) -> None:
    conversation = await create(apis[0], items=[CALL])
    headers = {"Idempotency-Key": "once", **headers}
    body = {"input": given, "conversation": conversation, "model": "scripted"}
    await asked(apis[0], "warm up", model="scripted")
    listed = provider.list_requests
    provider.models = slow = SlowModels("scripted")
    repeat = asyncio.create_task(apis[1].post("/v1/responses", json=body, headers=headers))
    await until_over(lambda: provider.list_requests > listed or None)  # its key was looked up, its conversation was not
    first = await apis[0].post("/v1/responses", json=body, headers=headers)
    slow.released.set()
    second = await repeat
    assert (first.status_code, second.status_code) == (200, 200), (first.text, second.text)
    assert second.json()["id"] == first.json()["id"]
    assert second.headers["idempotent-replayed"] == "true"
