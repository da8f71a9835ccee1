"""Transactions in MongoDB whose statements travel together: all of them in one go, then the commit, where the driver waits for each.

A transaction of four statements is two round trips then, in half the time, and half the driver's work. The driver has no public call for
it: this goes one level below, to the connections of its pool and its encoder, and leaves to it servers, authentication and TLS.
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
    """What a statement was answered. Behind one that failed all others fail too, so they are to be read in order."""

    document: Document
    wire_version: int | None = None

    def read(self) -> Document:
        """Raises what the driver would: PyMongoError, and BulkWriteError where it was a document that failed."""
        _check_command_response(self.document, self.wire_version, parse_write_concern_error=True)
        if self.document.get("writeErrors"):
            raise BulkWriteError(self.document)
        return self.document


Send = Callable[[Sequence[Document]], Awaitable[list[Answer]]]
"""Sends statements, as MongoDB's commands are written: `{"insert": collection, "documents": [...]}`. Raises ConnectionFailure."""

_SNAPSHOT = {"readConcern": {"level": "snapshot"}}
_DURABLE = {"writeConcern": {"w": "majority", "j": True}}
_MAX_BYTES = 16 * 1024 * 1024
"""That are on their way at once."""


@asynccontextmanager
async def together(database: Database, session: AsyncClientSession) -> AsyncIterator[Send]:
    """A transaction of the session, in which none is under way. It commits on the way out, durably on a majority.

    Where something is raised inside, nothing was done. Where the commit raises a ConnectionFailure, or an error labelled
    UnknownTransactionCommitResult, nobody knows.
    """
    lsid = session.session_id
    session._server_session.inc_transaction_id()  # noqa: SLF001
    number = session._server_session.transaction_id  # noqa: SLF001
    of_transaction = {"lsid": lsid, "txnNumber": number, "autocommit": False}
    begun = False
    try:
        async with await database.client._conn_for_writes(None, "transaction") as connection:  # noqa: SLF001

            async def send(statements: Sequence[Document]) -> list[Answer]:
                nonlocal begun
                commands = [{**statement, **of_transaction} for statement in statements]
                if commands and not begun:
                    begun = True
                    commands[0] |= {"startTransaction": True, **_SNAPSHOT}
                return await _sent(connection, database.name, commands)

            try:
                yield send
            except BaseException:
                if begun and not connection.closed:
                    with suppress(PyMongoError):  # most errors have ended it already
                        await _sent(connection, "admin", [{"abortTransaction": 1, **of_transaction}])
                raise
            if begun:
                [committed] = await _sent(connection, "admin", [{"commitTransaction": 1, **of_transaction, **_DURABLE}])
                _read_commit(committed)
    except BaseException:
        if begun and connection.closed:
            # The server goes on with it: it would hold its locks until the session's next one, or a minute.
            with suppress(PyMongoError):
                async with await database.client._conn_for_writes(None, "abortTransaction") as another:  # noqa: SLF001
                    await _sent(another, "admin", [{"abortTransaction": 1, **of_transaction}])
        raise


def _read_commit(answer: Answer) -> None:
    """Labels an error as the driver does, when it leaves open whether there was a commit: the server does not."""
    try:
        answer.read()
    except OperationFailure as error:
        if isinstance(error, WTimeoutError) or error.code in _UNKNOWN_COMMIT_ERROR_CODES:
            error._add_error_label("UnknownTransactionCommitResult")  # noqa: SLF001
        raise


async def _sent(connection: "AsyncConnection", database: str, commands: Sequence[Document]) -> list[Answer]:
    """The answers to these commands, as many of them under way at once as are no more than _MAX_BYTES."""
    answers: list[Answer] = []
    under_way: dict[int, bytes] = {}
    largest = 0
    for command in commands:
        number, message, _, document = _op_msg(0, command, database, None, DEFAULT_CODEC_OPTIONS)
        if len(message) > connection.max_message_size:  # the server would close the connection, and not say why
            raise DocumentTooLarge(f"A statement of {len(message)} bytes, of {connection.max_message_size} at most")
        if under_way and sum(map(len, under_way.values())) + len(message) > _MAX_BYTES:
            answers += await _exchanged(connection, under_way, largest)
            under_way = {}
        under_way[number] = message
        largest = max(largest, document)
    answers += await _exchanged(connection, under_way, largest)
    return answers


async def _exchanged(connection: "AsyncConnection", messages: Mapping[int, bytes], largest: int) -> list[Answer]:
    """The answers to these messages, sent in one go. `largest`: bytes of the largest document in them.

    Each is received, whatever the others say, so that none is taken for that to a later message.
    """
    await connection.send_message(b"".join(messages.values()), largest)
    received = [await connection.receive_message(number) for number in messages]
    return [Answer(message.unpack_response()[0], connection.max_wire_version) for message in received]
