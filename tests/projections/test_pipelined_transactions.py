"""Transactions whose commands are sent together."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

import pytest
from pymongo import client_session_shared, helpers_shared, message
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.mongo_client import AsyncMongoClient
from pymongo.asynchronous.pool import AsyncConnection
from pymongo.errors import BulkWriteError, ConnectionFailure, DocumentTooLarge, OperationFailure, PyMongoError

from infrastructure.stores.mongo_pipeline import Answer, exchange, pipelined_transaction
from tests.projections.world import World

THINGS = "things"


@pytest.fixture
async def session(world: World) -> AsyncIterator[AsyncClientSession]:
    await world.database[THINGS].insert_one({"_id": 0})
    async with world.client.start_session() as session:
        yield session


def insert(*documents: dict[str, Any]) -> dict[str, Any]:
    return {"insert": THINGS, "documents": list(documents), "ordered": False}


async def stored_ids(world: World) -> list[Any]:
    return sorted([document["_id"] async for document in world.database[THINGS].find({}, {"_id": 1})])


async def test_each_command_is_answered_and_visible_after_the_commit(session: AsyncClientSession, world: World) -> None:
    async with pipelined_transaction(world.database, session) as send:
        answers = await send(
            [insert({"_id": 1}, {"_id": 2}), {"delete": THINGS, "deletes": [{"q": {"_id": 0}, "limit": 0}]}]
        )
        assert [answer.read()["n"] for answer in answers] == [2, 1]
        [answer] = await send([insert({"_id": 3})])
        assert answer.read()["n"] == 1
        assert await stored_ids(world) == [0], "nothing is visible before the commit"
    assert await stored_ids(world) == [1, 2, 3]


async def test_after_a_failed_command_nothing_is_written_and_the_session_works(
    session: AsyncClientSession, world: World
) -> None:
    async def fail() -> None:
        async with pipelined_transaction(world.database, session) as send:
            good, bad, behind = await send([insert({"_id": 1}), insert({"_id": 0}), insert({"_id": 2})])
            good.read()
            with pytest.raises(OperationFailure):
                behind.read()
            bad.read()

    with pytest.raises(BulkWriteError):
        await fail()
    assert await stored_ids(world) == [0]
    async with pipelined_transaction(world.database, session) as send:
        for answer in await send([insert({"_id": 1})]):
            answer.read()
    assert await stored_ids(world) == [0, 1]


async def test_the_commit_fails_if_a_failed_answer_is_not_read(session: AsyncClientSession, world: World) -> None:
    with pytest.raises(OperationFailure):
        async with pipelined_transaction(world.database, session) as send:
            await send([insert({"_id": 0})])
    assert await stored_ids(world) == [0]


async def test_a_transaction_of_27_megabytes_is_written(session: AsyncClientSession, world: World) -> None:
    large = [{"_id": number, "text": "x" * 9_000_000} for number in (1, 2, 3)]
    async with pipelined_transaction(world.database, session) as send:
        assert [answer.read()["n"] for answer in await send([insert(document) for document in large])] == [1, 1, 1]
    assert await stored_ids(world) == [0, 1, 2, 3]


async def test_a_document_that_is_too_large_is_refused_and_the_session_works(
    session: AsyncClientSession, world: World
) -> None:
    with pytest.raises(DocumentTooLarge):
        async with pipelined_transaction(world.database, session) as send:
            await send([insert({"_id": 1}), insert({"_id": 2, "text": "x" * 17_000_000})])
    async with pipelined_transaction(world.database, session) as send:
        await send([insert({"_id": 3})])
    assert await stored_ids(world) == [0, 3]


async def test_a_cancelled_transaction_is_written_whole_or_not_at_all(
    session: AsyncClientSession, world: World
) -> None:
    async def write(number: int) -> None:
        async with pipelined_transaction(world.database, session) as send:
            for answer in await send([insert({"_id": number}), insert({"_id": number + 1})]):
                answer.read()

    await world.database[THINGS].delete_many({})
    refused: set[int] = set()
    for number in range(0, 80, 2):
        await stored_ids(world)  # opens a connection
        writing = asyncio.create_task(write(number))
        await asyncio.wait([writing], timeout=number * 0.0001)
        writing.cancel()
        await asyncio.wait([writing])
        error = None if writing.cancelled() else writing.exception()
        if (
            error is not None
        ):  # MongoDB may refuse any transaction. Then the projector loads its positions and repeats the transaction.
            assert isinstance(error, OperationFailure)
            assert error.has_error_label("TransientTransactionError")
            refused.add(number)
    await write(100)
    ids = await stored_ids(world)
    assert ids[-2:] == [100, 101]
    assert refused.isdisjoint(ids)
    assert len(refused) <= 2
    assert [number + 1 for number in ids[::2]] == ids[1::2]


async def test_a_killed_session_writes_nothing(session: AsyncClientSession, world: World) -> None:
    async def add_and_kill_session() -> None:
        async with pipelined_transaction(world.database, session) as send:
            await send([insert({"_id": 1})])
            await world.client.admin.command("killSessions", [session.session_id])

    with pytest.raises(OperationFailure):
        await add_and_kill_session()
    assert await stored_ids(world) == [0]


async def test_a_connection_that_breaks_at_the_commit_is_an_error(
    session: AsyncClientSession, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_message = AsyncConnection.send_message

    async def break_at_commit(self: AsyncConnection, message: bytes, largest: int) -> None:
        await send_message(self, message, largest)
        if b"commitTransaction" in message:
            self.conn.get_conn.transport.abort()

    async def add(number: int) -> None:
        async with pipelined_transaction(world.database, session) as send:
            await send([insert({"_id": number})])

    with monkeypatch.context() as patched:
        patched.setattr(AsyncConnection, "send_message", break_at_commit)
        with pytest.raises(ConnectionFailure):
            await add(1)
    await add(2)
    assert await stored_ids(world) in ([0, 2], [0, 1, 2]), "the first may or may not be committed"


async def test_the_locks_of_a_cancelled_transaction_are_free_at_once(
    session: AsyncClientSession, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive_message, waiting_for_answers = AsyncConnection.receive_message, asyncio.Event()

    async def notify_and_receive(self: AsyncConnection, request_id: int | None) -> Any:
        waiting_for_answers.set()
        return await receive_message(self, request_id)

    async def add(session: AsyncClientSession) -> None:
        async with pipelined_transaction(world.database, session) as send:
            for answer in await send([insert({"_id": 1})]):
                answer.read()

    with monkeypatch.context() as patched:
        patched.setattr(AsyncConnection, "receive_message", notify_and_receive)
        adding = asyncio.create_task(add(session))
        await waiting_for_answers.wait()
        adding.cancel()
        await asyncio.wait([adding])
    assert adding.cancelled()
    async with world.client.start_session() as another:
        await add(another)
    assert await stored_ids(world) == [0, 1]


@pytest.mark.parametrize(
    "answer",
    [
        {"ok": 0, "code": 262, "errmsg": "ExceededTimeLimit"},
        {"ok": 1, "writeConcernError": {"code": 64, "errmsg": "waiting timed out", "errInfo": {"wtimeout": True}}},
        {"ok": 1, "writeConcernError": {"code": 91, "errmsg": "ShutdownInProgress"}},
    ],
)
async def test_the_error_of_a_commit_of_unknown_outcome_has_pymongos_label(
    session: AsyncClientSession, world: World, answer: dict[str, Any]
) -> None:
    async def exchange_without_outcome(
        connection: AsyncConnection, name: str, commands: Sequence[dict[str, Any]]
    ) -> list[Answer]:
        answers = await exchange(connection, name, commands)
        return [Answer(answer)] if "commitTransaction" in commands[0] else answers

    with pytest.raises(OperationFailure) as raised:
        async with pipelined_transaction(world.database, session, exchange=exchange_without_outcome) as send:
            await send([insert({"_id": 1})])
    assert raised.value.has_error_label("UnknownTransactionCommitResult")


async def test_a_command_larger_than_a_message_is_refused(session: AsyncClientSession, world: World) -> None:
    with pytest.raises(DocumentTooLarge):
        async with pipelined_transaction(world.database, session) as send:
            await send([insert(*({"_id": number, "text": "x" * 12_000_000} for number in range(1, 5)))])
    assert await stored_ids(world) == [0]


PRIVATE_API: Final[dict[str, tuple[Callable[..., Any], list[str]]]] = {
    "message._op_msg": (message._op_msg, ["flags", "command", "dbname", "read_preference", "opts", "ctx"]),
    "message._OpMsg.unpack_response": (message._OpMsg.unpack_response, ["self", "cursor_id", "codec_options"]),
    "helpers_shared._check_command_response": (
        helpers_shared._check_command_response,
        ["response", "max_wire_version", "allowable_errors", "parse_write_concern_error"],
    ),
    "AsyncMongoClient._conn_for_writes": (AsyncMongoClient._conn_for_writes, ["self", "session", "operation"]),
    "AsyncConnection.send_message": (AsyncConnection.send_message, ["self", "message", "max_doc_size"]),
    "AsyncConnection.receive_message": (AsyncConnection.receive_message, ["self", "request_id"]),
    "_ServerSession.inc_transaction_id": (client_session_shared._ServerSession.inc_transaction_id, ["self"]),
    "PyMongoError._add_error_label": (PyMongoError._add_error_label, ["self", "label"]),
}
"""The functions of pymongo's private API that the pipeline uses, and their first parameters."""


@pytest.mark.parametrize("name", PRIVATE_API)
def test_private_functions_of_pymongo_have_the_parameters_that_the_pipeline_uses(
    name: str,
) -> None:
    function, expected = PRIVATE_API[name]
    parameters = list(inspect.signature(function).parameters)
    assert parameters[: len(expected)] == expected, (
        f"pymongo changed {name}: check infrastructure/stores/mongo_pipeline.py against the new version before raising the pin"
    )


async def test_pymongo_has_the_attributes_that_the_pipeline_uses(session: AsyncClientSession, world: World) -> None:
    changed = (
        "pymongo changed: check infrastructure/stores/mongo_pipeline.py against the new version before raising the pin"
    )
    assert session.session_id, changed
    assert isinstance(session._server_session.transaction_id, int), changed
    async with await world.client._conn_for_writes(None, "transaction") as connection:
        assert not connection.closed, changed
        assert connection.max_message_size >= 48_000_000, changed
        assert connection.max_wire_version >= 17, changed
    assert {50, 64, 91, 262} <= set(client_session_shared._UNKNOWN_COMMIT_ERROR_CODES), changed
