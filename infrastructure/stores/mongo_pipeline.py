"""Sends the commands of a MongoDB transaction together, and then the commit.

pymongo waits for each command's answer, which doubles the time and CPU of four commands. pymongo has no public call
that sends commands together. So this file uses pymongo's private connections and encoder.
`tests/projections/test_pipelined_transactions.py` fails when pymongo changes these.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from bson.codec_options import DEFAULT_CODEC_OPTIONS
from msgspec import Struct
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.client_session_shared import _UNKNOWN_COMMIT_ERROR_CODES
from pymongo.errors import BulkWriteError, DocumentTooLarge, OperationFailure, PyMongoError, WTimeoutError
from pymongo.helpers_shared import _check_command_response
from pymongo.message import _op_msg

from infrastructure.stores.mongodb import Database, Document

if TYPE_CHECKING:
    from pymongo.asynchronous.pool import AsyncConnection


class Answer(Struct, frozen=True):
    """If a command fails, all later commands of the transaction fail too. To get the first error, read the answers in order."""

    document: Document
    wire_version: int | None = None

    def read(self) -> Document:
        """Raises a PyMongoError, as pymongo would."""
        _check_command_response(self.document, self.wire_version, parse_write_concern_error=True)
        if self.document.get("writeErrors"):
            raise BulkWriteError(self.document)
        return self.document


Send = Callable[[Sequence[Document]], Awaitable[list[Answer]]]
"""Raises DocumentTooLarge and ConnectionFailure."""

Exchange = Callable[["AsyncConnection", str, Sequence[Document]], Awaitable[list[Answer]]]

_SNAPSHOT = {"readConcern": {"level": "snapshot"}}
_DURABLE = {"writeConcern": {"w": "majority", "j": True}}
_MAX_BYTES_IN_FLIGHT = 16 * 1024 * 1024


async def exchange(connection: "AsyncConnection", database: str, commands: Sequence[Document]) -> list[Answer]:
    """Sends as many commands at once as fit into _MAX_BYTES_IN_FLIGHT. Raises DocumentTooLarge and ConnectionFailure."""
    answers: list[Answer] = []
    in_flight: dict[int, bytes] = {}
    largest = 0
    for command in commands:
        request_id, message, _, document_size = _op_msg(0, command, database, None, DEFAULT_CODEC_OPTIONS)
        if len(message) > connection.max_message_size:  # the server would close the connection and give no reason
            raise DocumentTooLarge(f"A command has {len(message)} bytes; the maximum is {connection.max_message_size}")
        if in_flight and sum(map(len, in_flight.values())) + len(message) > _MAX_BYTES_IN_FLIGHT:
            answers += await _send_and_receive(connection, in_flight, largest)
            in_flight = {}
        in_flight[request_id] = message
        largest = max(largest, document_size)
    answers += await _send_and_receive(connection, in_flight, largest)
    return answers


@asynccontextmanager
async def pipelined_transaction(
    database: Database, session: AsyncClientSession, exchange: Exchange = exchange
) -> AsyncIterator[Send]:
    """Commits durably on a majority of the servers. `session` must have no transaction.

    If the block raises, nothing was written. After a ConnectionFailure or UnknownTransactionCommitResult of the commit,
    the outcome is unknown.
    """
    session_id = session.session_id  # makes pymongo give the session its server session
    session._server_session.inc_transaction_id()  # noqa: SLF001
    number = session._server_session.transaction_id  # noqa: SLF001
    in_transaction = {"lsid": session_id, "txnNumber": number, "autocommit": False}
    started = False
    try:
        async with await database.client._conn_for_writes(None, "transaction") as connection:  # noqa: SLF001

            async def send(statements: Sequence[Document]) -> list[Answer]:
                nonlocal started
                commands = [{**statement, **in_transaction} for statement in statements]
                if commands and not started:
                    started = True
                    commands[0] |= {"startTransaction": True, **_SNAPSHOT}
                return await exchange(connection, database.name, commands)

            try:
                yield send
            except BaseException:
                if started and not connection.closed:
                    with suppress(PyMongoError):  # after most errors the server has already aborted the transaction
                        await exchange(connection, "admin", [{"abortTransaction": 1, **in_transaction}])
                raise
            if started:
                [answer] = await exchange(connection, "admin", [{"commitTransaction": 1, **in_transaction, **_DURABLE}])
                _check_commit(answer)
    except BaseException:
        if started and connection.closed:
            # Without an abort, the server would keep the transaction and its locks for up to 60 s (the default).
            with suppress(PyMongoError):
                async with await database.client._conn_for_writes(None, "abortTransaction") as another:  # noqa: SLF001
                    await exchange(another, "admin", [{"abortTransaction": 1, **in_transaction}])
        raise


def _check_commit(answer: Answer) -> None:
    """If the outcome is unknown, labels the error as pymongo does, because the server sends no label."""
    try:
        answer.read()
    except OperationFailure as error:
        if isinstance(error, WTimeoutError) or error.code in _UNKNOWN_COMMIT_ERROR_CODES:
            error._add_error_label("UnknownTransactionCommitResult")  # noqa: SLF001
        raise


async def _send_and_receive(connection: "AsyncConnection", messages: Mapping[int, bytes], largest: int) -> list[Answer]:
    """Receives all answers, so that no later command gets one of these answers. `largest`: bytes of the largest document."""
    await connection.send_message(b"".join(messages.values()), largest)
    received = [await connection.receive_message(request_id) for request_id in messages]
    return [Answer(message.unpack_response()[0], connection.max_wire_version) for message in received]
