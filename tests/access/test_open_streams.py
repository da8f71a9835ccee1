"""Open streams and sockets whose reader loses access, or whose content is deleted."""

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx
import pytest

from domain.commands import (
    Command,
    DeleteConversation,
    DeleteReply,
    RetractItem,
    ShareConversation,
    UnshareConversation,
)
from domain.events import ItemAppended, Share
from infrastructure.access.principal import Principal
from infrastructure.event_log.conversation_watch import ConversationWatch
from infrastructure.http.stream_pages import SLICE_BYTES, StreamPages
from infrastructure.settings import Settings
from queries.event_stream import EventStreams
from queries.events import events_json
from queries.main import open_dependencies
from queries.query_context import ProcessDependencies
from replies.following import ReplyStreams
from replies.live_reader import LiveReader
from replies.record import Record, find_record, read_record
from tests.commands.api_client import eventually
from tests.commands.served_api import create, served_api
from tests.log import Log
from tests.principals import HeaderAuthenticator, RevocableAuthenticator, headers_of
from tests.queries.conftest import served
from tests.queries.writer import Writer
from tests.scripted_provider import Exchange, ScriptedProvider, scripted_provider

BEN = headers_of("ben")
OWNER = headers_of("someone")
WITH_BEN = ShareConversation(share=Share(subject="ben", role="writer"))
WITHOUT_BEN = UnshareConversation(subject="ben")
SECONDS = 5


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    yield from scripted_provider()


@pytest.fixture
def log(settings: Settings) -> Log:
    return Log(settings.postgres_url)


@asynccontextmanager
async def queries(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        served(settings, authenticator=HeaderAuthenticator()) as url,
        httpx.AsyncClient(base_url=url, timeout=20) as client,
    ):
        yield client


async def next_event(lines: AsyncIterator[str]) -> dict[str, str]:
    event: dict[str, str] = {}
    async with asyncio.timeout(SECONDS):
        async for line in lines:
            name, _, value = line.partition(": ")
            if line:
                event[name] = value
            elif "data" in event:
                return event
    return event


async def rest_of(lines: AsyncIterator[str]) -> list[str]:
    """The remaining lines. The stream must end within SECONDS."""
    async with asyncio.timeout(SECONDS):
        return [line async for line in lines if line]


def error_in(lines: list[str]) -> dict[str, Any]:
    """The data of the last event, which must be an error."""
    assert lines[-2] == "event: error", lines
    error: dict[str, Any] = json.loads(lines[-1].removeprefix("data: "))
    return error


async def test_a_withdrawn_share_ends_the_stream_of_events_with_an_error(settings: Settings, write: Writer) -> None:
    conversation_id = await write.start("a")
    await write.execute(conversation_id, WITH_BEN)
    path = f"/v1/conversations/{conversation_id}/events"
    headers = {"Accept": "text/event-stream"}
    async with queries(settings) as client:
        async with (
            client.stream("GET", path, headers={**BEN, **headers}) as bens,
            client.stream("GET", path, headers={**OWNER, **headers}) as owners,
        ):
            lines, owners_lines = bens.aiter_lines(), owners.aiter_lines()
            await write.append(conversation_id, "before")
            assert [(await next_event(lines))["id"] for _ in range(4)] == ["1", "2", "3", "4"]
            await write.execute(conversation_id, WITHOUT_BEN)
            await write.append(conversation_id, "after")
            rest = await rest_of(lines)
            assert error_in(rest)["error"]["code"] == "not_found"
            assert len(rest) == 2, "more than the error was sent"
            assert [(await next_event(owners_lines))["id"] for _ in range(6)] == ["1", "2", "3", "4", "5", "6"]
        repeated = await client.get(path, headers={**BEN, **headers, "Last-Event-ID": "4"})
    assert repeated.status_code == 404


async def test_the_deletion_of_the_conversation_ends_the_stream_of_events(settings: Settings, write: Writer) -> None:
    conversation_id = await write.start("a", title="secret")
    path = f"/v1/conversations/{conversation_id}/events"
    async with (
        queries(settings) as client,
        client.stream("GET", path, headers={**OWNER, "Accept": "text/event-stream"}) as answer,
    ):
        lines = answer.aiter_lines()
        assert [(await next_event(lines))["id"] for _ in range(2)] == ["1", "2"]
        await write.append(conversation_id, "unseen")
        await write.delete(conversation_id)
        rest = await rest_of(lines)
    assert "event: conversation.deleted" in rest
    # The item was sent before the deletion was committed, or without its content.
    item = json.loads(next(line for line in rest if '"item.appended"' in line).removeprefix("data: "))
    assert (item["data"]["item"] is None) == (item.get("blanked") == ["item"])


@asynccontextmanager
async def event_streams(settings: Settings, **limits: float) -> AsyncIterator[tuple[EventStreams, ProcessDependencies]]:
    async with open_dependencies(settings, threading.Event()) as dependencies:
        shutdown = threading.Event()
        watch = ConversationWatch(dependencies.stream_log.head_of_each, shutdown)
        streams = EventStreams(dependencies.stream_log, watch, StreamPages(), events_json, shutdown, **limits)
        yield streams, dependencies
        await watch.close()


async def follow(
    streams: EventStreams, dependencies: ProcessDependencies, conversation_id: str, sender: Principal
) -> AsyncGenerator[bytes, None]:
    """The stream from the first event on, as `sender` gets it."""
    log = dependencies.of(sender).stream_log
    async with aclosing(streams.follow(log, conversation_id, await log.existing_head(conversation_id), 0)) as stream:
        async for chunk in stream:
            yield chunk


def principal(subject: str, *scopes: Any) -> Principal:
    return Principal("default", subject, frozenset({"read", *scopes}))


async def test_a_stream_shows_no_event_that_follows_the_withdrawal_of_its_share(
    settings: Settings, write: Writer
) -> None:
    conversation_id = await write.start("before")
    await write.execute(conversation_id, WITH_BEN)
    async with event_streams(settings, look_up_seconds=3600) as (streams, dependencies):
        log = dependencies.of(principal("ben")).stream_log
        head = await log.existing_head(conversation_id)
        await write.execute(conversation_id, WITHOUT_BEN)
        await write.append(conversation_id, "after")
        async with aclosing(streams.follow(log, conversation_id, head, 0)) as stream:
            body = b"".join([chunk async for chunk in stream])
    assert b"before" in body
    assert b"event: error" in body
    assert b"after" not in body


async def test_a_slow_client_gets_only_an_error_after_its_share_is_withdrawn(settings: Settings, write: Writer) -> None:
    conversation_id = await write.start(*("x" * 10_000 for _ in range(20)))
    await write.execute(conversation_id, WITH_BEN)
    async with (
        event_streams(settings, look_up_seconds=0) as (streams, dependencies),
        aclosing(follow(streams, dependencies, conversation_id, principal("ben"))) as stream,
    ):
        first = await anext(stream)
        assert first.endswith(b"\n\n"), "the first slice does not end with an event"
        await write.execute(conversation_id, WITHOUT_BEN)
        rest = [chunk async for chunk in stream]
    assert len(rest) == 1
    assert rest[0].startswith(b"event: error\n")


async def test_a_retracted_item_is_blanked_in_the_rest_of_a_slow_page(settings: Settings, write: Writer) -> None:
    conversation_id = await write.start("start")
    ids = await write.append(conversation_id, *(f"{number:02d}" + "x" * 10_000 for number in range(20)))
    async with (
        event_streams(settings, look_up_seconds=0, max_page_seconds=0.001) as (streams, dependencies),
        aclosing(follow(streams, dependencies, conversation_id, principal("someone"))) as stream,
    ):
        body = await anext(stream)
        await write.retract(conversation_id, ids[15])
        async with asyncio.timeout(SECONDS):
            while b"event: item.retracted" not in body:
                body += await anext(stream)
    events = [json.loads(line[6:]) for line in body.splitlines() if line.startswith(b"data: ")]
    assert [event["version"] for event in events] == list(range(1, 24))
    assert [event["version"] for event in events if "blanked" in event] == [18]
    assert b"15xxx" not in body


async def test_the_rest_of_a_retracted_item_is_not_sent(settings: Settings, write: Writer, log: Log) -> None:
    conversation_id = await write.start("x" * 500_000 + "end")
    [item_id] = [event.item_id for event in log.events(conversation_id) if isinstance(event, ItemAppended)]
    for is_retracted in (False, True):
        async with (
            event_streams(settings, look_up_seconds=0, max_page_seconds=0.001) as (streams, dependencies),
            aclosing(follow(streams, dependencies, conversation_id, principal("someone"))) as stream,
        ):
            body = await anext(stream) + await anext(stream) + await anext(stream)
            assert not body.endswith(b"\n\n")
            if is_retracted:
                await write.retract(conversation_id, item_id)
                body += b"".join([chunk async for chunk in stream])
                assert len(body) < 4 * SLICE_BYTES
            else:  # the stream makes this page again, with equal bytes
                while not body.endswith(b"\n\n"):
                    body += await anext(stream)
                assert b'end"' in body


async def test_readers_who_see_deleted_content_share_no_pages_with_others(settings: Settings, write: Writer) -> None:
    conversation_id = await write.start("start")
    secret = "secret " * 10_000
    [item_id] = await write.append(conversation_id, secret)
    await write.retract(conversation_id, item_id)
    async with event_streams(settings) as (streams, dependencies):

        async def read(sender: Principal) -> bytes:
            body = b""
            async with aclosing(follow(streams, dependencies, conversation_id, sender)) as stream:
                while b"event: item.retracted" not in body:
                    body += await anext(stream)
            return body

        audit, owner = principal("someone", "audit"), principal("someone")
        bodies = await asyncio.gather(*(read(sender) for sender in (audit, owner, audit, owner)))
        bodies += [await read(owner), await read(audit)]
    assert [secret.encode() in text for text in bodies] == [True, False, True, False, False, True]


@pytest.mark.parametrize("command", [WITHOUT_BEN, DeleteConversation()], ids=["withdrawn", "deleted"])
async def test_a_reader_who_loses_access_loses_the_stream_of_a_running_reply(
    settings: Settings, write: Writer, command: Command
) -> None:
    conversation_id = await write.start("a")
    await write.execute(conversation_id, WITH_BEN)
    response_id, question = await write.request_reply(conversation_id, "?")
    path = f"/v1/responses/{response_id}"
    async with queries(settings) as client:
        async with client.stream("GET", path, params={"stream": "true"}, headers=BEN) as answer:
            assert answer.status_code == 200
            lines = answer.aiter_lines()
            await write.execute(conversation_id, command)
            if command is WITHOUT_BEN:
                await write.complete_reply(conversation_id, response_id, question, "unseen")
            rest = await rest_of(lines)
        assert error_in(rest)["type"] == "error"
        assert "unseen" not in str(rest)
        assert (await client.get(path, params={"stream": "true"}, headers=BEN)).status_code == 404


@pytest.mark.parametrize("what", ["share", "conversation", "response", "item"])
async def test_after_a_withdrawal_or_deletion_a_slow_reader_gets_less_than_another_slice(
    settings: Settings, write: Writer, what: str
) -> None:
    conversation_id = await write.start("a")
    await write.execute(conversation_id, WITH_BEN)
    response_id, question = await write.request_reply(conversation_id, "?")
    [output] = await write.complete_reply(conversation_id, response_id, question, "word " * 100_000)
    async with open_dependencies(settings, threading.Event()) as dependencies:
        log = dependencies.of(principal("ben")).stream_log
        record = await find_record(log, response_id)

        async def read() -> Record:
            return await read_record(log.shared(), conversation_id, response_id)

        pages, shutdown = StreamPages(), threading.Event()
        watch = ConversationWatch(dependencies.stream_log.head_of_each, shutdown)
        streams = ReplyStreams(LiveReader(dependencies.redis, pages), watch, pages, shutdown)
        async with aclosing(streams.follow(record, read, -1, principal("ben"))) as stream:
            first = [await anext(stream) for _ in range(2)]
            deletions: dict[str, Command] = {
                "share": WITHOUT_BEN,
                "conversation": DeleteConversation(),
                "response": DeleteReply(response_id=response_id),
                "item": RetractItem(item_id=output.item_id),
            }
            with watch.change(conversation_id, record.head) as change:
                await write.execute(conversation_id, deletions[what])
                await change
            rest = [chunk async for chunk in stream]
        await watch.close()
    assert len(b"".join(first)) > SLICE_BYTES / 2
    if first[-1].endswith(b"\n\n"):
        assert b"event: error" in rest[-1]
    assert len(b"".join(rest)) < SLICE_BYTES


def holding(release: threading.Event) -> Any:
    """A script that sends a word, and the rest after `release`."""

    def script(exchange: Exchange) -> None:
        exchange.begin_stream()
        exchange.text_chunk("begun")
        release.wait(20)
        exchange.text_chunk("unseen")
        exchange.text_chunk(finish_reason="stop")
        exchange.end_stream()

    return script


@pytest.mark.parametrize("transport", ["stream", "json", "socket"])
@pytest.mark.parametrize("command", [WITHOUT_BEN, DeleteConversation()], ids=["withdrawn", "deleted"])
async def test_a_reply_whose_requester_loses_access_ends_as_not_found(
    settings: Settings, write: Writer, provider: ScriptedProvider, transport: str, command: Command
) -> None:
    conversation_id = await write.start("a")
    await write.execute(conversation_id, WITH_BEN)
    release = threading.Event()
    provider.script = holding(release)
    changed = {"openai_base_url": provider.url, "default_model": "scripted"}
    async with served_api(settings.model_copy(update=changed), authenticator=HeaderAuthenticator()) as api:
        body = {"input": "?", "conversation": conversation_id}

        async def request() -> tuple[int, str]:
            """(status or error code, text of the answer)."""
            if transport == "socket":
                async with api.socket(**{name.replace("-", "_"): value for name, value in BEN.items()}) as client:
                    events = await create(client, "?", conversation=conversation_id)
                return events[-1]["status"], json.dumps(events)
            answer = await api.http.post("/v1/responses", json={**body, "stream": transport == "stream"}, headers=BEN)
            if transport == "json":
                return answer.status_code, answer.text
            return json.loads(answer.text.strip().rpartition("data: ")[2]).get("code"), answer.text

        answering = asyncio.create_task(request())
        await eventually(lambda: provider.requests or None)
        await write.execute(conversation_id, command)
        async with asyncio.timeout(SECONDS):
            status, text = await answering
        assert status == ("not_found" if transport == "stream" else 404)
        assert "unseen" not in text
        release.set()
        assert await asyncio.to_thread(provider.disconnected.wait, SECONDS), (
            "the reply goes on, although nobody waits for it"
        )


async def test_a_reply_in_the_background_continues_when_its_requester_loses_access(
    settings: Settings, write: Writer, provider: ScriptedProvider, log: Log
) -> None:
    conversation_id = await write.start("a")
    await write.execute(conversation_id, WITH_BEN)
    release = threading.Event()
    provider.script = holding(release)
    changed = {"openai_base_url": provider.url, "default_model": "scripted"}
    async with served_api(settings.model_copy(update=changed), authenticator=HeaderAuthenticator()) as api:
        body = {"input": "?", "conversation": conversation_id, "background": True, "stream": True}
        answering = asyncio.create_task(api.http.post("/v1/responses", json=body, headers=BEN))
        await eventually(lambda: provider.requests or None)
        await write.execute(conversation_id, WITHOUT_BEN)
        async with asyncio.timeout(SECONDS):
            assert "not_found" in (await answering).text
        release.set()
        await eventually(lambda: log.events(conversation_id)[-1].topic == "reply.completed" or None)
        assert "unseen" in str(log.events(conversation_id))


async def test_a_revoked_key_ends_its_streams_with_an_error(settings: Settings, write: Writer) -> None:
    conversation_id = await write.start("a")
    await write.execute(conversation_id, WITH_BEN)
    response_id, _ = await write.request_reply(conversation_id, "?")
    authenticator = RevocableAuthenticator()
    async with (
        served(settings, authenticator=authenticator) as url,
        httpx.AsyncClient(base_url=url, timeout=20) as client,
        client.stream(
            "GET", f"/v1/conversations/{conversation_id}/events", headers={**BEN, "Accept": "text/event-stream"}
        ) as events,
        client.stream("GET", f"/v1/responses/{response_id}?stream=true", headers=BEN) as reply,
    ):
        lines = events.aiter_lines()
        assert [(await next_event(lines))["id"] for _ in range(4)] == ["1", "2", "3", "4"]
        authenticator.revoked.add("ben")
        for rest in await asyncio.gather(rest_of(lines), rest_of(reply.aiter_lines())):
            assert error_in(rest)["error"]["code"] == "invalid_api_key"


async def test_no_task_checks_the_key_of_a_disconnected_client(settings: Settings, write: Writer) -> None:
    conversation_id = await write.start("a")
    headers = {**OWNER, "Accept": "text/event-stream"}
    async with served(settings, authenticator=RevocableAuthenticator()) as url:
        before = len(asyncio.all_tasks())
        for _ in range(5):
            async with (
                httpx.AsyncClient(base_url=url, timeout=20) as client,
                client.stream("GET", f"/v1/conversations/{conversation_id}/events", headers=headers) as answer,
            ):
                assert (await next_event(answer.aiter_lines()))["id"] == "1"
        await eventually(lambda: len(asyncio.all_tasks()) <= before + 1 or None)


async def test_a_revoked_key_stops_the_reply_that_is_streamed_to_its_user(
    settings: Settings, write: Writer, provider: ScriptedProvider
) -> None:
    conversation_id = await write.start("a")
    await write.execute(conversation_id, WITH_BEN)
    release = threading.Event()
    provider.script = holding(release)
    changed = {"openai_base_url": provider.url, "default_model": "scripted"}
    authenticator = RevocableAuthenticator()
    async with served_api(settings.model_copy(update=changed), authenticator=authenticator) as api:
        body = {"input": "?", "conversation": conversation_id, "stream": True}
        answering = asyncio.create_task(api.http.post("/v1/responses", json=body, headers=BEN))
        await eventually(lambda: provider.requests or None)
        authenticator.revoked.add("ben")
        async with asyncio.timeout(SECONDS):
            text = (await answering).text
        assert json.loads(text.strip().rpartition("data: ")[2])["error"]["code"] == "invalid_api_key"
        assert "unseen" not in text
        release.set()
        assert await asyncio.to_thread(provider.disconnected.wait, SECONDS)
