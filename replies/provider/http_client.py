"""The HTTP client for providers."""

import socket
import ssl
from functools import cache
from typing import Any

import aiohttp
import httpx2
import openai


@cache
def _tls() -> ssl.SSLContext:
    """Shared, because reading all certificates takes 25 ms."""
    return httpx2.create_ssl_context()


class ProviderClient(openai.DefaultAioHttpClient):
    """With aiohttp, a stream costs half the CPU time that it costs with the default client.

    On Linux, a connection is closed if the provider reads nothing for `send_timeout` seconds while data waits to be
    sent. aiohttp has no such limit, and the class above has no public way to pass this option to it.
    """

    def __init__(self, *, send_timeout: float, auth: httpx2.Auth | None) -> None:
        self._send_timeout = send_timeout
        # A redirect would send content and the API key to an unknown address.
        super().__init__(auth=auth, follow_redirects=False, verify=_tls())

    def _init_transport(self, *arguments: Any, **options: Any) -> Any:
        return self._with_send_timeout(super()._init_transport(*arguments, **options))

    def _init_proxy_transport(self, *arguments: Any, **options: Any) -> Any:
        return self._with_send_timeout(super()._init_proxy_transport(*arguments, **options))

    def _with_send_timeout(self, transport: Any) -> Any:
        limits = transport.limits
        transport.client = lambda: aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=limits.max_connections,
                keepalive_timeout=limits.keepalive_expiry,
                ssl=_tls(),
                socket_factory=self._socket,
            )
        )
        return transport

    def _socket(self, address: Any) -> socket.socket:
        family, kind, protocol, *_ = address
        opened = socket.socket(family, kind, protocol)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(self._send_timeout * 1000))
        return opened
