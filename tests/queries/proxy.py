"""A TCP proxy in front of a real server. A test can cut or freeze the connections."""

import asyncio
from collections.abc import Callable
from urllib.parse import urlsplit


class Proxy:
    """Forwards connections to the server at `url`.

    `watch` is called once for each connection. The function that `watch` returns gets the client's bytes.
    """

    def __init__(self, url: str, watch: Callable[[], Callable[[bytes], None]] | None = None) -> None:
        self._watch = watch
        self._parts = urlsplit(url)
        self._streams: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._forwarding = asyncio.Event()
        self._forwarding.set()
        self._server: asyncio.Server | None = None
        self._port = 0

    @property
    def url(self) -> str:
        credentials = self._parts.netloc.rpartition("@")[0]
        return self._parts._replace(netloc=f"{credentials}@127.0.0.1:{self._port}").geturl()

    async def restore(self) -> None:
        """Starts to forward. Call this first, and after `cut` or `freeze`."""
        self._forwarding.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._accepted, "127.0.0.1", self._port)
            self._port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for stream in list(self._streams):
            stream.transport.abort()
        pumps = list(self._pumps)
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)

    def freeze(self) -> None:
        """Keeps connections open but forwards nothing."""
        self._forwarding.clear()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._streams.add(writer)
        server_reader, server_writer = await asyncio.open_connection(self._parts.hostname, self._parts.port)
        self._streams.add(server_writer)
        sent = self._watch() if self._watch is not None else None
        for source, target, seen in ((reader, server_writer, sent), (server_reader, writer, None)):
            pump = asyncio.create_task(self._pump(source, target, seen))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _pump(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, seen: Callable[[bytes], None] | None
    ) -> None:
        try:
            while data := await source.read(65536):
                if seen is not None:
                    seen(data)
                await self._forwarding.wait()
                target.write(data)
                await target.drain()
        except ConnectionError:
            pass
        finally:
            self._streams.discard(target)
            target.transport.abort()
