"""Which forms of a provider's server-sent events are read, which are a failure, and when a provider is too slow."""

import json
import threading
import time

import pytest

from replies.provider.provider import ModelProvider
from tests.replies.provider.conftest import CHUNK, MESSAGE, failure_of, joined, parts_of, write
from tests.scripted_provider import Exchange, ScriptedProvider

LINES = b"data: " + CHUNK.replace(b",", b",\r\ndata: ")


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
        (b"data: " + CHUNK + b"\r\rdata: [DONE]\r\r",),
        (b": x\r\r" + LINES + b"\r\n\r\ndata: [DONE] \r\n\r\n",),
        (b"\xef\xbb\xbfdata: " + CHUNK.replace(b",", b",\rdata:") + b"\r\r",),
        (b"data: " + CHUNK.replace(b'"a"', '"\u2028\u2029\x85"'.encode()) + b"\n\n",),
    ],
)
async def test_forms_that_the_standard_allows_or_that_providers_send_are_read(
    chat: ModelProvider, provider: ScriptedProvider, chunks: tuple[bytes, ...]
) -> None:
    provider.script = write(*chunks)
    assert len(await parts_of(chat)) == 3


async def test_a_line_end_that_comes_in_two_chunks_is_one_line_end(
    chat: ModelProvider, provider: ScriptedProvider
) -> None:
    before, after = LINES.split(b"\n")

    def script(exchange: Exchange) -> None:
        write(before)(exchange)
        threading.Event().wait(0.1)
        exchange.wfile.write(b"\n" + after + b"\r\n\r\n")

    provider.script = script
    assert joined(await parts_of(chat)) == [(MESSAGE, "a")]


async def test_comments_and_characters_that_come_in_two_chunks_are_read(
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
async def test_a_failure_does_not_quote_the_invalid_answer(
    data: bytes, chat: ModelProvider, provider: ScriptedProvider
) -> None:
    provider.script = write(data)
    failure = await failure_of(chat)
    assert failure.code == "model_error"
    assert "not streamed" not in str(failure)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b": still here\n\n",
        b'data: {"choices":[{"delta":{}}]}\n\n',
        b'data: {"choices":[{"delta":{"role":"assistant","content":"","tool_calls":[]},"finish_reason":null}]}\n\n',
        b'data: {"choices":[{"delta":{"reasoning_content":""}}],"usage":{"completion_tokens":1}}\n\n',
        b'data: {"choices":[]}\n\n',
        b"data: {}\n\n",
    ],
    ids=range(7),
)
async def test_a_provider_that_sends_nothing_new_in_time_is_too_slow(
    chat: ModelProvider, provider: ScriptedProvider, line: bytes
) -> None:
    def script(exchange: Exchange) -> None:
        exchange.begin_stream()
        exchange.text_chunk("par")
        send_repeatedly(exchange, line)

    provider.script = script
    await assert_too_slow(chat)


@pytest.mark.parametrize(
    "event",
    [
        {"type": "keepalive"},
        {"type": "response.in_progress", "response": {"status": "in_progress"}},
        {"type": "response.output_text.delta", "output_index": 0, "item_id": "msg_1", "delta": ""},
        {"type": "response.reasoning_summary_text.delta", "delta": ""},
        {"type": "response.output_item.added", "output_index": 0, "item": {"id": "msg_1", "type": "message"}},
    ],
    ids=lambda event: event["type"],
)
async def test_a_provider_of_the_responses_api_that_sends_nothing_new_in_time_is_too_slow(
    responses: ModelProvider, provider: ScriptedProvider, event: dict[str, object]
) -> None:
    def script(exchange: Exchange) -> None:
        exchange.begin_stream()
        item = {"id": "msg_1", "type": "message", "role": "assistant", "content": []}
        exchange.event("response.output_item.added", output_index=0, item=item)
        exchange.event("response.output_text.delta", output_index=0, item_id="msg_1", delta="par")
        send_repeatedly(exchange, b"data: " + json.dumps(event).encode() + b"\n\n")

    provider.script = script
    await assert_too_slow(responses)


async def test_a_provider_that_sends_something_new_before_each_timeout_is_not_too_slow(
    responses: ModelProvider, provider: ScriptedProvider
) -> None:
    def script(exchange: Exchange) -> None:
        exchange.begin_stream()
        for _ in range(2):
            for _ in range(6):
                exchange.event("response.in_progress")
                threading.Event().wait(0.1)
            # This event counts as something new from the model, although no stream part is made of it.
            exchange.event("response.reasoning_summary_text.delta", delta="thinking")
        message = {"id": "msg_1", "type": "message", "content": [{"type": "output_text", "text": "ok"}]}
        exchange.event("response.completed", response={"status": "completed", "output": [message]})

    provider.script = script
    assert [text for _, text in joined(await parts_of(responses))] == ["ok"]


def send_repeatedly(exchange: Exchange, line: bytes) -> None:
    for _ in range(20):
        exchange.wfile.write(line)
        threading.Event().wait(0.2)


async def assert_too_slow(client: ModelProvider) -> None:
    """Asserts that the answer fails after the client's timeout, which is one second."""
    started_at = time.monotonic()
    failure = await failure_of(client)
    assert (failure.code, failure.timed_out) == ("model_timeout", True)
    assert time.monotonic() - started_at > 0.9
