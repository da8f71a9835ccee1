"""Scripts for `provider.script`. Most scripts do not answer correctly."""

import threading
from typing import Any

from tests.scripted_provider import Exchange


def refuses(exchange: Exchange) -> None:
    exchange.json(400, {"error": {"message": "secret of somebody"}})


def html(exchange: Exchange) -> None:
    exchange.raw(200, b"<html>It works!</html>", "text/html")


def no_stream(exchange: Exchange) -> None:
    exchange.json(200, {"choices": []})


def broken_json(exchange: Exchange) -> None:
    exchange.begin_stream()
    exchange.text_chunk("par")
    exchange.wfile.write(b"data: {not json\n\n")


def breaks_off(exchange: Exchange) -> None:
    exchange.begin_stream()
    exchange.text_chunk("par")
    exchange.text_chunk("tial")


def wrong_shape(exchange: Exchange) -> None:
    exchange.begin_stream()
    exchange.wfile.write(b'data: {"choices": [{"delta": 7}], "model": []}\n\ndata: "text"\n\ndata: 3\n\n')
    exchange.end_stream()


def silence(exchange: Exchange) -> None:
    exchange.begin_stream()
    exchange.text_chunk("par")
    threading.Event().wait(5)


def last_chunk_with(**fields: Any) -> Any:
    """A script whose last chunk has these fields."""

    def script(exchange: Exchange) -> None:
        exchange.begin_stream()
        exchange.text_chunk("ok")
        exchange.chunk(**{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], **fields})
        exchange.end_stream()

    return script
