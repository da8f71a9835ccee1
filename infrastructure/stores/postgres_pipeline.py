"""One connection that runs one prepared statement, each call in one round trip, on the event loop.

The next call is sent while the server still works on the call before. A round trip takes half a millisecond. psycopg's
cursors would need as much again in Python, so this file calls libpq through `psycopg.pq`.
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
"""Postgres 17."""

_NEEDS_NEW_CONNECTION = (psycopg.ProgrammingError, psycopg.NotSupportedError, psycopg.InternalError)
"""After these errors the next call connects again.

Tables, types or functions may have been replaced, or the server may have become read-only.
"""

RegisterTypes = Callable[[AsyncConnection[Any]], Awaitable[None]]


class PostgresPipeline:
    """Connects at the first call, and again after the connection was lost. Results come in the order of the calls.

    Each call is a transaction. The server commits only after the call's last message.
    `register_types` is called with each new connection.
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
        """The result of the oldest call, as far as it was received."""
        self._socket = -1
        self._poll = select.poll()

    async def open(self) -> None:
        """Does nothing if Postgres is down."""
        with suppress(NotSent):
            await self._connected()

    async def call(self, values: Sequence[Any], timeout_seconds: float) -> Any:
        """Returns the value in the only column of the statement's only row.

        Raises NotSent if there is no connection. Raises OutcomeUnknown or ServerTimedOut if this statement and all
        other statements in flight may have run. Raises any other psycopg.Error if nothing was done, such as
        psycopg.DataError.
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
        # The statement may have run.
        self._drop(connection)
        raise OutcomeUnknown(str(failure)) from failure

    def close(self) -> None:
        """Fails the calls in flight. The next call connects again."""
        self._disconnect(psycopg.OperationalError("The connection was closed."))

    def end(self) -> None:
        """Closes for good. A call that is still connecting fails."""
        self._ended = True
        self.close()

    def _drop(self, connection: AsyncConnection[Any]) -> None:
        """Closes this connection, unless it was replaced already."""
        if self._connection is connection:
            self.close()

    def _time_out(self, pending: "asyncio.Future[PGresult]", error: psycopg.Error) -> None:
        """Does nothing if the answer has arrived and the event loop was too busy to read it."""
        self._readable()
        if not pending.done():
            self._disconnect(error)

    def _disconnect(self, error: psycopg.Error) -> None:
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
        """Sends what libpq still holds."""
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
        """uvloop calls this only once for a socket with an error. A single read could miss the end of the connection,
        and the calls in flight would wait until they time out.
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
        """Must also be called after each flush. A flush may read, and then nothing reports the socket as readable."""
        statement_ended = False
        while self._pending and not pgconn.is_busy():
            result = pgconn.get_result()
            if result is None:  # next comes PIPELINE_SYNC, or the error of the commit
                # In libpq up to 14.10, 15.5 and 16.1, a failed commit makes get_result return None for ever.
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
    pass


class OutcomeUnknown(psycopg.OperationalError):
    """The statement may or may not have run."""


class ServerTimedOut(OutcomeUnknown):
    pass
