"""One connection that runs one prepared statement again and again, each call in one round trip, on the event loop.

Calls do not wait for each other: the next call is sent while the server still works on the one before.

The pipeline calls libpq through `psycopg.pq`, and converts parameters and results with psycopg's binary dumpers and loaders. A round trip takes
half a millisecond. psycopg's cursors would need as much time again, in Python, for each statement.
"""

import asyncio
import select
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import AsyncConnection
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus, Format

if TYPE_CHECKING:
    from psycopg import abc
    from psycopg.pq.abc import PGconn, PGresult

CONNECT_TIMEOUT_SECONDS = 5.0

_FIRST_WITH_TRANSACTION_TIMEOUT = 170_000
"""The first server version that has `transaction_timeout`: Postgres 17."""

_NEEDS_NEW_CONNECTION = (psycopg.ProgrammingError, psycopg.NotSupportedError, psycopg.InternalError)
"""Errors after which the next call connects again. They can mean that the tables, types or functions of the prepared statement were dropped and
made again, or that the server became read-only.
"""

RegisterTypes = Callable[[AsyncConnection[Any]], Awaitable[None]]


class PostgresPipeline:
    """Runs one statement. Connects at the first call, and again after the connection was lost. Results come in the order of the calls.

    `statement` is prepared under `name` with parameters of `types`. Each call is a transaction of its own. The server commits it only when
    it has received the call's last message. From version 17 on, the server aborts a transaction that takes longer than
    `transaction_timeout_seconds`. `register_types` is called with each new connection, to register types that psycopg does not know by itself.
    """

    def __init__(
        self,
        connection_arguments: Mapping[str, Any],
        *,
        name: str,
        types: Sequence[str],
        statement: str,
        transaction_timeout_seconds: int,
        register_types: RegisterTypes | None = None,
    ) -> None:
        self._connection_arguments = connection_arguments
        self._transaction_timeout_seconds = transaction_timeout_seconds
        self._name = name.encode()
        self._prepare = f"PREPARE {name} ({', '.join(types)}) AS {statement}"
        self._types = types
        self._formats = [Format.BINARY] * len(types)
        self._register_types = register_types
        self._transformer: abc.Transformer = Transformer()
        self._connection: AsyncConnection[Any] | None = None
        self._ended = False
        self._connecting = asyncio.Lock()
        self._pending: deque[asyncio.Future[PGresult]] = deque()
        """The calls in flight, oldest first."""
        self._result: PGresult | None = None
        """The part of the oldest call's result that was received so far."""
        self._socket = -1
        self._poll = select.poll()
        """Tells whether the socket has more to read."""

    async def open(self) -> None:
        """Connects before the first call. Does nothing if Postgres is down."""
        with suppress(NotSent):
            await self._connected()

    async def call(self, values: Sequence[Any], timeout_seconds: float) -> Any:
        """Runs the statement with these parameters and returns the one column of its one row.

        Raises NotSent if there is no connection. Raises OutcomeUnknown if the connection was lost, and ServerTimedOut if there was no answer
        within `timeout_seconds`: then this statement and all others in flight may or may not have run. Raises psycopg.DataError if a
        value does not fit its type; nothing was sent then. Raises any other psycopg.Error if Postgres refused the statement and did nothing.
        """
        connection = await self._connected()
        try:
            parameters = self._transformer.dump_sequence(values, ())
        except Exception as error:
            raise psycopg.DataError(f"a parameter cannot be sent: {type(error).__name__}") from error
        pgconn = connection.pgconn
        loop = asyncio.get_running_loop()
        pending: asyncio.Future[PGresult] = loop.create_future()
        self._pending.append(pending)
        timed_out = ServerTimedOut(f"no answer within {timeout_seconds} s")
        timer = loop.call_later(timeout_seconds, self._time_out, pending, timed_out)
        try:
            pgconn.send_query_prepared(self._name, parameters, self._formats, result_format=Format.BINARY)
            pgconn.pipeline_sync()
            if pgconn.flush():
                loop.add_writer(self._socket, self._flush)
            self._read_results(pgconn)
            result = await pending
        except BaseException as error:
            pending.cancel()
            self._drop(connection)
            if isinstance(error, psycopg.Error) and not isinstance(error, ServerTimedOut):
                raise OutcomeUnknown(str(error)) from error
            raise
        finally:
            timer.cancel()
        if result.status == ExecStatus.TUPLES_OK:
            return self._value_of(result)
        failure = error_from_result(result)
        if result.error_field(DiagnosticField.SEVERITY_NONLOCALIZED) == b"ERROR":
            if isinstance(failure, _NEEDS_NEW_CONNECTION):
                self._drop(connection)
            raise failure
        # The server or libpq ended the connection. The statement may have run.
        self._drop(connection)
        raise OutcomeUnknown(str(failure)) from failure

    def close(self) -> None:
        """Closes the connection and fails the calls in flight. The next call connects again."""
        self._disconnect(psycopg.OperationalError("The connection was closed."))

    def end(self) -> None:
        """Closes the pipeline for good. A call that is still connecting fails, and leaves no connection open."""
        self._ended = True
        self.close()

    def _drop(self, connection: AsyncConnection[Any]) -> None:
        """Closes this connection, unless it was replaced already."""
        if self._connection is connection:
            self.close()

    def _time_out(self, pending: "asyncio.Future[PGresult]", error: psycopg.Error) -> None:
        """Fails the calls in flight. Does nothing if the answer to this call has arrived, and the event loop was only too busy to read it."""
        self._readable()
        if not pending.done():
            self._disconnect(error)

    def _disconnect(self, error: psycopg.Error) -> None:
        """Closes the connection and fails the calls in flight with `error`."""
        failed, self._pending, self._result = self._pending, deque(), None
        for pending in failed:
            if not pending.done():
                pending.set_exception(error)
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
                    connection = await self._connect()
                except Exception as error:  # an invalid host name raises a UnicodeError
                    raise NotSent(str(error)) from error
                if self._ended:
                    connection.pgconn.finish()
                    raise NotSent("The connection was closed.")
                self._connection = connection
                self._socket = self._connection.pgconn.socket
                self._poll = select.poll()
                self._poll.register(self._socket, select.POLLIN)
                asyncio.get_running_loop().add_reader(self._socket, self._readable)
            return self._connection

    async def _connect(self) -> AsyncConnection[Any]:
        async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
            connection = await AsyncConnection.connect(**{**self._connection_arguments, "autocommit": True})
            try:
                if connection.info.server_version >= _FIRST_WITH_TRANSACTION_TIMEOUT:
                    timeout = f"SET transaction_timeout = '{self._transaction_timeout_seconds}s'"
                    await connection.execute(timeout.encode())
                await connection.execute(self._prepare.encode())
                self._transformer = await self._new_transformer(connection)
                connection.pgconn.enter_pipeline_mode()
            except BaseException:
                connection.pgconn.finish()
                raise
            return connection

    async def _new_transformer(self, connection: AsyncConnection[Any]) -> "abc.Transformer":
        if self._register_types is not None:
            await self._register_types(connection)
        transformer = Transformer(connection)
        oids = [connection.adapters.types.get_oid(name) for name in self._types]
        transformer.set_dumper_types(oids, Format.BINARY)
        return transformer

    def _value_of(self, result: "PGresult") -> Any:
        value = result.get_value(0, 0)
        return None if value is None else self._transformer.get_loader(result.ftype(0), Format.BINARY).load(value)

    def _flush(self) -> None:
        """Called when the socket accepts data: sends what libpq still holds."""
        if self._connection is None:
            return
        pgconn = self._connection.pgconn
        try:
            if not pgconn.flush():
                asyncio.get_running_loop().remove_writer(self._socket)
            self._read_results(pgconn)
        except psycopg.Error as error:
            self._disconnect(error)

    def _readable(self) -> None:
        """Called when the socket has data, or was closed by the server: reads until there is no more.

        uvloop calls this only once for a socket with an error. A single read may get the server's last message but not the end of
        the connection after it. Nothing would report that end later: the calls in flight would wait until they time out.
        """
        if self._connection is None:
            return
        pgconn = self._connection.pgconn
        try:
            more = True
            while more:
                pgconn.consume_input()
                self._read_results(pgconn)
                more = bool(self._poll.poll(0))
        except psycopg.Error as error:
            self._disconnect(error)

    def _read_results(self, pgconn: "PGconn") -> None:
        """Takes the results that libpq has received.

        Call it after each flush too: a flush may also read, and then nothing reports the socket as readable.
        """
        statement_ended = False
        while self._pending and not pgconn.is_busy():
            result = pgconn.get_result()
            if result is None:  # the statement's results end; next comes PIPELINE_SYNC, or the error of its commit
                # In libpq up to 14.10, 15.5 and 16.1 a failed commit makes get_result return None for ever.
                if statement_ended or pgconn.status != ConnStatus.OK:
                    raise psycopg.OperationalError("The connection was lost.")
            elif result.status == ExecStatus.PIPELINE_SYNC:
                self._resolve_oldest()
            elif self._result is None or result.status == ExecStatus.FATAL_ERROR:
                self._result = result
            statement_ended = result is None

    def _resolve_oldest(self) -> None:
        if self._result is None:
            raise psycopg.OperationalError("The server ended a statement without a result.")
        pending, result = self._pending.popleft(), self._result
        self._result = None
        if not pending.done():
            pending.set_result(result)


class NotSent(psycopg.OperationalError):
    """There was no connection: the statement was not sent."""


class OutcomeUnknown(psycopg.OperationalError):
    """The connection was lost, or there was no answer in time: the statement may or may not have run."""


class ServerTimedOut(OutcomeUnknown):
    """The server did not answer in time."""
