"""A connection of the event loop's own that runs one statement over and over, each time in one round trip.

Calls follow each other without waiting: while the server is at one, the next is with it already.

It speaks through libpq as the driver wraps it (`psycopg.pq`), binary both ways: beside a round trip of half a millisecond, what
the driver's cursors do in Python for each statement is as long again.
"""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import AsyncConnection
from psycopg.errors import error_from_result
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus, Format

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn, PGresult

CONNECT_SECONDS = 5.0

_WITH_TRANSACTION_TIMEOUT = 170_000


class PostgresPipeline:
    """Connects when it is first used, and again after it broke. Calls are carried out, and answered, in the order in which they are made.

    `statement` is prepared under `name`; `types` are those of its parameters. Its transaction may take `longest_seconds`: between the
    statement and its commit a server waits for a few bytes more, and would wait for ever (from Postgres 17 on; before, it does).
    """

    def __init__(
        self, connect: Mapping[str, Any], name: str, types: Sequence[str], statement: str, longest_seconds: int
    ) -> None:
        self._connect = connect
        self._longest_seconds = longest_seconds
        self._name = name.encode()
        self._prepare = f"PREPARE {name} ({', '.join(types)}) AS {statement}"
        self._formats = [Format.BINARY] * len(types)
        self._connection: AsyncConnection[Any] | None = None
        self._connecting = asyncio.Lock()
        self._answers: deque[asyncio.Future[PGresult]] = deque()
        """Of the calls under way, the oldest first."""
        self._result: PGresult | None = None
        """What came of the oldest so far."""
        self._socket = -1

    async def open(self) -> None:
        """Connects ahead of the first call, where that is possible."""
        with suppress(NotSent):
            await self._connected()

    async def call(self, parameters: Sequence[bytes], seconds: float) -> bytes | None:
        """The value of the one column of the one row, as Postgres sends it. The statement is its own transaction.

        Raises NotSent; OutcomeUnknown, and where nothing came back within `seconds` Silent: what became of the statement is unknown
        then, and of the others under way too; and what Postgres says against the statement, a psycopg.Error: it did nothing.
        """
        connection = await self._connected()
        pgconn = connection.pgconn
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[PGresult] = loop.create_future()
        self._answers.append(answer)
        late = loop.call_later(seconds, self._broke, ServerTimedOut(f"nothing within {seconds} s"))
        try:
            pgconn.send_query_prepared(self._name, parameters, self._formats, result_format=Format.BINARY)
            pgconn.pipeline_sync()
            if pgconn.flush():
                loop.add_writer(self._socket, self._flush)
            self._read(pgconn)
            result = await answer
        except BaseException as error:
            answer.cancel()
            self._give_up(connection)
            if isinstance(error, psycopg.Error) and not isinstance(error, ServerTimedOut):
                raise OutcomeUnknown(str(error)) from error
            raise
        finally:
            late.cancel()
        if result.status == ExecStatus.TUPLES_OK:
            return result.get_value(0, 0)
        said = error_from_result(result)
        if result.error_field(DiagnosticField.SEVERITY_NONLOCALIZED) == b"ERROR":
            raise said
        # The server gave the connection up, or libpq did: its last word is none on the statement.
        self._give_up(connection)
        raise OutcomeUnknown(str(said)) from said

    def close(self) -> None:
        """Lets go of the connection; the next call makes another. Who waits for an answer is told."""
        self._broke(psycopg.OperationalError("The connection was closed."))

    def _give_up(self, connection: AsyncConnection[Any]) -> None:
        """Lets go of this connection, unless there is another already."""
        if self._connection is connection:
            self.close()

    def _broke(self, error: psycopg.Error) -> None:
        answers, self._answers, self._result = self._answers, deque(), None
        for answer in answers:
            if not answer.done():
                answer.set_exception(error)
        if self._connection is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._socket)
            loop.remove_writer(self._socket)
            self._connection.pgconn.finish()
            self._connection = None

    async def _connected(self) -> AsyncConnection[Any]:
        async with self._connecting:
            if self._connection is None:
                try:
                    self._connection = await self._connect_anew()
                except Exception as error:  # a host's name that can not be one is a UnicodeError
                    raise NotSent(str(error)) from error
                self._socket = self._connection.pgconn.socket
                asyncio.get_running_loop().add_reader(self._socket, self._readable)
            return self._connection

    async def _connect_anew(self) -> AsyncConnection[Any]:
        async with asyncio.timeout(CONNECT_SECONDS):
            connection = await AsyncConnection.connect(**{**self._connect, "autocommit": True})
            try:
                if connection.info.server_version >= _WITH_TRANSACTION_TIMEOUT:
                    await connection.execute(f"SET transaction_timeout = '{self._longest_seconds}s'".encode())
                await connection.execute(self._prepare.encode())
                connection.pgconn.enter_pipeline_mode()
            except BaseException:
                connection.pgconn.finish()
                raise
            return connection

    def _flush(self) -> None:
        """Sends what is left to send, when the socket takes it."""
        if self._connection is None:
            return
        pgconn = self._connection.pgconn
        try:
            if not pgconn.flush():
                asyncio.get_running_loop().remove_writer(self._socket)
            self._read(pgconn)
        except psycopg.Error as error:
            self._broke(error)

    def _readable(self) -> None:
        if self._connection is None:
            return
        pgconn = self._connection.pgconn
        try:
            pgconn.consume_input()
            self._read(pgconn)
        except psycopg.Error as error:
            self._broke(error)

    def _read(self, pgconn: "PGconn") -> None:
        """Takes the answers that are with libpq. It fetches some while it sends, too, and the socket tells of those no more."""
        ended = False
        while self._answers and not pgconn.is_busy():
            result = pgconn.get_result()
            if result is None:  # the end of what the statement gives; whether it is committed comes behind
                # Up to 14.10, 15.5 and 16.1 libpq loses count when a commit fails, and would say so for ever.
                if ended or pgconn.status != ConnStatus.OK:
                    raise psycopg.OperationalError("The connection was lost.")
            elif result.status == ExecStatus.PIPELINE_SYNC:
                self._answered()
            elif self._result is None or result.status == ExecStatus.FATAL_ERROR:
                self._result = result
            ended = result is None

    def _answered(self) -> None:
        if self._result is None:
            raise psycopg.OperationalError("The server was done before it gave an answer.")
        answer, result = self._answers.popleft(), self._result
        self._result = None
        if not answer.done():
            answer.set_result(result)


class NotSent(psycopg.OperationalError):
    """There was no connection: nothing was carried out."""


class OutcomeUnknown(psycopg.OperationalError):
    """The connection was lost, or kept silent: what became of the statement is unknown."""


class ServerTimedOut(OutcomeUnknown):
    """The server kept silent for as long as was waited."""
