"""Transactions whose statements travel together: all or nothing, whatever fails, and the next one goes on."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.pool import AsyncConnection
from pymongo.errors import BulkWriteError, ConnectionFailure, DocumentTooLarge, OperationFailure

from infrastructure.stores.mongo_pipeline import Answer, exchange, pipelined_transaction
from tests.projections.world import World

THINGS = "things"


@pytest.fixture
async def session(world: World) -> AsyncIterator[AsyncClientSession]:
    await world.database[THINGS].insert_one({"_id": 0})
    async with world.client.start_session() as session:
        yield session


def adds(*documents: dict[str, Any]) -> dict[str, Any]:
    return {"insert": THINGS, "documents": list(documents), "ordered": False}


async def held(world: World) -> list[Any]:
    return sorted([it["_id"] async for it in world.database[THINGS].find({}, {"_id": 1})])


async def test_given_statements_that_succeed_then_all_is_there_and_each_is_answered(
    session: AsyncClientSession, world: World
) -> None:
    async with pipelined_transaction(world.database, session) as send:
        answers = await send(
            [adds({"_id": 1}, {"_id": 2}), {"delete": THINGS, "deletes": [{"q": {"_id": 0}, "limit": 0}]}]
        )
        assert [answer.read()["n"] for answer in answers] == [2, 1]
        [answer] = await send([adds({"_id": 3})])
        assert answer.read()["n"] == 1
        assert await held(world) == [0], "nothing is seen before the commit"
    assert await held(world) == [1, 2, 3]


async def test_given_a_statement_that_fails_then_nothing_is_there_and_the_session_goes_on(
    session: AsyncClientSession, world: World
) -> None:
    async def fail() -> None:
        async with pipelined_transaction(world.database, session) as send:
            good, bad, behind = await send([adds({"_id": 1}), adds({"_id": 0}), adds({"_id": 2})])
            good.read()
            with pytest.raises(OperationFailure):
                behind.read()
            bad.read()

    with pytest.raises(BulkWriteError):
        await fail()
    assert await held(world) == [0]
    async with pipelined_transaction(world.database, session) as send:
        for answer in await send([adds({"_id": 1})]):
            answer.read()
    assert await held(world) == [0, 1]


async def test_given_a_failure_that_nobody_reads_then_the_commit_says_so(
    session: AsyncClientSession, world: World
) -> None:
    with pytest.raises(OperationFailure):
        async with pipelined_transaction(world.database, session) as send:
            await send([adds({"_id": 0})])
    assert await held(world) == [0]


async def test_given_more_than_travels_at_once_then_all_of_it_is_there(
    session: AsyncClientSession, world: World
) -> None:
    large = [{"_id": number, "text": "x" * 9_000_000} for number in (1, 2, 3)]
    async with pipelined_transaction(world.database, session) as send:
        assert [answer.read()["n"] for answer in await send([adds(each) for each in large])] == [1, 1, 1]
    assert await held(world) == [0, 1, 2, 3]


async def test_given_a_document_too_large_then_it_is_refused_and_the_session_goes_on(
    session: AsyncClientSession, world: World
) -> None:
    with pytest.raises(DocumentTooLarge):
        async with pipelined_transaction(world.database, session) as send:
            await send([adds({"_id": 1}), adds({"_id": 2, "text": "x" * 17_000_000})])
    async with pipelined_transaction(world.database, session) as send:
        await send([adds({"_id": 3})])
    assert await held(world) == [0, 3]


async def test_given_it_is_cancelled_at_any_moment_then_all_or_nothing_is_there_and_the_session_goes_on(
    session: AsyncClientSession, world: World
) -> None:
    async def write(number: int) -> None:
        async with pipelined_transaction(world.database, session) as send:
            for answer in await send([adds({"_id": number}), adds({"_id": number + 1})]):
                answer.read()

    await world.database[THINGS].delete_many({})
    for number in range(0, 80, 2):
        await held(world)  # so that there is a connection
        writing = asyncio.create_task(write(number))
        await asyncio.wait([writing], timeout=number * 0.0001)
        writing.cancel()
        await asyncio.wait([writing])
        assert writing.cancelled() or writing.exception() is None
    await write(100)
    found = await held(world)
    assert found[-2:] == [100, 101]
    assert [number + 1 for number in found[::2]] == found[1::2]


async def test_given_the_session_was_killed_then_nothing_is_there(session: AsyncClientSession, world: World) -> None:
    async def be_killed() -> None:
        async with pipelined_transaction(world.database, session) as send:
            await send([adds({"_id": 1})])
            await world.client.admin.command("killSessions", [session.session_id])

    with pytest.raises(OperationFailure):
        await be_killed()
    assert await held(world) == [0]


async def test_given_the_connection_breaks_inside_then_that_is_said_and_the_session_goes_on(
    session: AsyncClientSession, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_message = AsyncConnection.send_message

    async def breaks(self: AsyncConnection, message: bytes, largest: int) -> None:
        await send_message(self, message, largest)
        if b"commitTransaction" in message:
            self.conn.get_conn.transport.abort()

    async def add(number: int) -> None:
        async with pipelined_transaction(world.database, session) as send:
            await send([adds({"_id": number})])

    with monkeypatch.context() as patched:
        patched.setattr(AsyncConnection, "send_message", breaks)
        with pytest.raises(ConnectionFailure):
            await add(1)
    await add(2)
    assert await held(world) in ([0, 2], [0, 1, 2]), "whether the first was committed nobody knows"


async def test_given_it_is_cancelled_while_it_waits_for_answers_then_its_locks_are_free_at_once(
    session: AsyncClientSession, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive_message, waits = AsyncConnection.receive_message, asyncio.Event()

    async def says_so(self: AsyncConnection, request_id: int | None) -> Any:
        waits.set()
        return await receive_message(self, request_id)

    async def add(session: AsyncClientSession) -> None:
        async with pipelined_transaction(world.database, session) as send:
            for answer in await send([adds({"_id": 1})]):
                answer.read()

    with monkeypatch.context() as patched:
        patched.setattr(AsyncConnection, "receive_message", says_so)
        adding = asyncio.create_task(add(session))
        await waits.wait()
        adding.cancel()
        await asyncio.wait([adding])
    assert adding.cancelled()
    async with world.client.start_session() as another:
        await add(another)
    assert await held(world) == [0, 1]


@pytest.mark.parametrize(
    "answer",
    [
        {"ok": 0, "code": 262, "errmsg": "ExceededTimeLimit"},
        {"ok": 1, "writeConcernError": {"code": 64, "errmsg": "waiting timed out", "errInfo": {"wtimeout": True}}},
        {"ok": 1, "writeConcernError": {"code": 91, "errmsg": "ShutdownInProgress"}},
    ],
)
async def test_given_nobody_knows_whether_it_was_committed_then_the_error_says_so_as_the_drivers_own_does(
    session: AsyncClientSession, world: World, answer: dict[str, Any]
) -> None:
    async def unsure(connection: AsyncConnection, name: str, commands: Sequence[dict[str, Any]]) -> list[Answer]:
        answers = await exchange(connection, name, commands)
        return [Answer(answer)] if "commitTransaction" in commands[0] else answers

    with pytest.raises(OperationFailure) as raised:
        async with pipelined_transaction(world.database, session, exchange=unsure) as send:
            await send([adds({"_id": 1})])
    assert raised.value.has_error_label("UnknownTransactionCommitResult")


async def test_given_a_statement_larger_than_a_message_may_be_then_it_is_said_that_it_is_too_large(
    session: AsyncClientSession, world: World
) -> None:
    with pytest.raises(DocumentTooLarge):
        async with pipelined_transaction(world.database, session) as send:
            await send([adds(*({"_id": number, "text": "x" * 12_000_000} for number in range(1, 5)))])
    assert await held(world) == [0]
