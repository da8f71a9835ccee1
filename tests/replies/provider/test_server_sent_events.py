"""Server-sent events over a real connection: what the standard allows, what providers send, and what is not an answer."""

import json
import threading
import time

import pytest

from replies.provider.provider import ModelProvider
from tests.replies.provider.conftest import CHUNK, MESSAGE, failure_of, joined, parts_of, write
from tests.scripted_provider import Exchange, ScriptedProvider


@pytest.mark.parametrize(
    "chunks",
    [
        (b"data: " + CHUNK + b"\n\ndata: [DONE]\n\n",),
        (b"data:" + CHUNK + b"\r\n\r\ndata:[DONE]\r\n\r\n",),
        (b": a comment\n\nevent: x\nid: 1\nretry: 5\ndata: " + CHUNK + b"\n\n",),
        (b"data: " + CHUNK,),
        (b"data: " + CHUNK.replace(b",", b",\ndata: ") + b"\n\n",),
        tuple(bytes([byte]) for byte in b"data: " + CHUNK + b"\n\ndata: [DONE]\n\n"),
        (b"data: " + CHUNK + b"\n\ndata: [DONE]\n\ndata: {not json\n\n",),
    ],
)
async def test_every_form_that_the_standard_allows_is_read(
    chat: ModelProvider, provider: ScriptedProvider, chunks: tuple[bytes, ...]
) -> None:
    provider.script = write(*chunks)
    assert len(await parts_of(chat)) == 3


async def test_any_line_ending_comments_and_characters_split_between_chunks_are_read(
    chat: ModelProvider, provider: ScriptedProvider
) -> None:
    event = json.dumps({"choices": [{"delta": {"content": "Grüße 🙂"}}]}, ensure_ascii=False).encode()
    middle = event.index("🙂".encode()) + 2
    provider.script = write(
        b"\xef\xbb\xbfdata: " + event[:middle],
        event[middle:] + b"\r\n\r",
        b"\n: still here\r\n\r\nevent: x\r\nid: 1\r\nretry: 5\r\n\r\ndata:" + event + b"\r\n\r\n",
        b"data: \r\n\r\n",
        b'data: {"choices": [{"finish_reason": "stop"}]}\n\n',
    )
    assert joined(await parts_of(chat)) == [(MESSAGE, "Grüße 🙂Grüße 🙂")]


@pytest.mark.parametrize(
    "chunks",
    [
        (b"data: {not json\n\n",),
        (b'data: "text"\n\n',),
        (b"data: 5\n\n",),
        (b"data: null\n\n",),
        (b'data: {"choices":[{"delta":{"content":"\\ud83d"}}]}\n\n',),
        (b'data: {"choices":[{"delta":{"content":"\xff"}}]}\n\n',),
        (b'data: {"choices":' + b"[" * 100_000 + b"\n\n",),
        (b'data: {"error":{"message":"secret"}}\n\n',),
        (b"event: error\ndata: {}\n\n",),
        (b"data: " + b"x" * 9_000_000,),
        (b"data: x\n" * 9_000_000,),
        (b"\n" * 100,),
        (),
    ],
    ids=range(13),
)
async def test_a_stream_that_is_not_an_answer_is_a_failure(
    chat: ModelProvider, responses: ModelProvider, provider: ScriptedProvider, chunks: tuple[bytes, ...]
) -> None:
    provider.script = write(*chunks)
    for client in (chat, responses):
        failure = await failure_of(client)
        assert failure.code == "model_error"
        assert not failure.unreachable


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"data: [DONE]\n\n",
        b"data: null\n\n",
        b"data: []\n\n",
        b"data: {\n\n",
        b'data: {"choices": [{"delta": {"content": "\xff"}}]}\n\n',
        b'data: {"choices": [{"delta": {"content": 1}}]}\n\n',
        b'{"choices": [{"message": {"content": "not streamed"}, "finish_reason": "stop"}]}',
        b"data: " + b"[" * 100_000 + b"\n\n",
        b'data: {"usage": ' + b"[" * 100_000 + b"\n\n",
        b"data: " + b"x" * 9_000_000,
        b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1e400}}\n\n',
    ],
)
async def test_a_failure_quotes_nothing_of_an_invalid_answer(
    data: bytes, chat: ModelProvider, provider: ScriptedProvider
) -> None:
    provider.script = write(data)
    failure = await failure_of(chat)
    assert failure.code == "model_error"
    assert "not streamed" not in str(failure)


@pytest.mark.parametrize("line", [b"", b": still here\n\n"])
async def test_a_provider_that_sends_no_event_in_time_is_too_slow(
    chat: ModelProvider, provider: ScriptedProvider, line: bytes
) -> None:
    def script(exchange: Exchange) -> None:
        exchange.begin_stream()
        exchange.text_chunk("par")
        for _ in range(20):
            exchange.wfile.write(line)
            threading.Event().wait(0.2)

    provider.script = script
    started_at = time.monotonic()
    failure = await failure_of(chat)
    assert (failure.code, failure.timed_out) == ("model_timeout", True)
    assert 0.9 < time.monotonic() - started_at < 2
