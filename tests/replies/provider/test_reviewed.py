"""What providers were seen to send over `/chat/completions`, and what they might."""

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from domain.errors import ModelFailed
from replies.provider.provider import ModelProvider
from replies.provider.stream_parts import Finished
from tests.provider import Exchange, Provider
from tests.replies.provider.conftest import joined, pieces_of
from tests.replies.provider.test_chat import MESSAGE, call, calls, streams


def sends(*data: bytes) -> Any:
    def script(exchange: Exchange) -> None:
        exchange.begin_stream()
        for each in data:
            exchange.wfile.write(each)
            exchange.wfile.flush()

    return script


def chunk(**choice: Any) -> bytes:
    return json.dumps({"choices": [choice]}).encode()


def without_ids(items: list[tuple[dict[str, object], str]]) -> list[tuple[object, str]]:
    return [(item.get("name"), text) for item, text in items]


async def test_chunks_without_a_delta_and_of_other_choices_take_nothing_away(
    chat: ModelProvider, provider: Provider
) -> None:
    provider.script = sends(
        b"data: " + chunk(index=0, delta={"content": "a"}) + b"\n\n",
        b"data: " + chunk(index=1, delta={"content": "not this"}, finish_reason="length") + b"\n\n",
        b"data: " + chunk(index=0, content_filter_offsets={"start_offset": 1}) + b"\n\n",
        b"data: " + chunk(index=0, delta=None) + b"\n\n",
        b"data: " + chunk(index=0, finish_reason="stop") + b"\n\ndata: [DONE]\n\n",
    )
    pieces = await pieces_of(chat)
    assert joined(pieces) == [(MESSAGE, "a")]
    assert pieces[-1] == Finished("stop")


@pytest.mark.parametrize("given", [None, ""])
async def test_calls_of_one_index_and_no_id_are_not_run_together(
    given: str | None, chat: ModelProvider, provider: Provider
) -> None:
    provider.script = streams(
        calls((0, given, "look", '{"at":"Paris"}')),
        calls((0, given, "look", '{"at":"London"}')),
        calls((0, given, "ask", '{"wh')),
        calls((0, None, None, 'o":1}')),
        finish_reason="tool_calls",
    )
    items = joined(await pieces_of(chat))
    assert without_ids(items) == [("look", '{"at":"Paris"}'), ("look", '{"at":"London"}'), ("ask", '{"who":1}')]
    assert len({str(item["call_id"]) for item, _ in items}) == 3


async def test_a_name_that_comes_again_with_each_delta_is_one_call(chat: ModelProvider, provider: Provider) -> None:
    provider.script = streams(
        calls((0, "c1", "look", "")),
        calls((0, None, "look", '{"at":')),
        calls((0, None, "look", '"Paris"}')),
        calls((0, None, "look", "")),
        finish_reason="tool_calls",
    )
    assert joined(await pieces_of(chat)) == [(call("c1", "look"), '{"at":"Paris"}')]


async def test_lines_of_any_end_comments_and_cut_characters_are_read(chat: ModelProvider, provider: Provider) -> None:
    said = json.dumps({"choices": [{"delta": {"content": "Grüße 🙂"}}]}, ensure_ascii=False).encode()
    at = said.index("🙂".encode()) + 2
    provider.script = sends(
        b"\xef\xbb\xbfdata: " + said[:at],
        said[at:] + b"\r\n\r",
        b"\n: still here\r\n\r\nevent: x\r\nid: 1\r\nretry: 5\r\n\r\ndata:" + said + b"\r\n\r\n",
        b"data: \r\n\r\n",
        b"data: " + chunk(finish_reason="stop") + b"\n\n",
    )
    assert joined(await pieces_of(chat)) == [(MESSAGE, "Grüße 🙂Grüße 🙂")]


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
async def test_anything_else_is_a_failure_with_nothing_of_it_in_its_words(
    data: bytes, chat: ModelProvider, provider: Provider
) -> None:
    provider.script = sends(data)
    with pytest.raises(ModelFailed) as failed:
        await pieces_of(chat)
    assert failed.value.code == "model_error"
    assert "not streamed" not in str(failed.value)


class Slow(list[str]):
    """A provider's models, which it takes long to list."""

    def __init__(self, *names: str) -> None:
        super().__init__(names)
        self.may_go_on = threading.Event()

    def __iter__(self) -> Iterator[str]:
        self.may_go_on.wait(10)
        return super().__iter__()


async def test_who_asks_a_listed_model_does_not_wait_for_those_who_ask_others(
    chat: ModelProvider, provider: Provider
) -> None:
    assert await chat.known("scripted")
    await asyncio.sleep(3.1)  # the list may be asked for again
    provider.models = slow = Slow("scripted")
    others = [asyncio.create_task(chat.known(f"other-{number}")) for number in range(50)]
    await asyncio.sleep(0.1)
    async with asyncio.timeout(1):
        assert await chat.known("scripted")
    slow.may_go_on.set()
    assert not any(await asyncio.gather(*others))
    assert provider.listed == 2


async def test_what_a_content_filter_cut_off_is_no_summary(chat: ModelProvider, provider: Provider) -> None:
    provider.script = lambda exchange: exchange.say("They", " talked", finish_reason="content_filter")
    said = await chat.say({})
    assert said.text == ""
    assert said.usage is not None
