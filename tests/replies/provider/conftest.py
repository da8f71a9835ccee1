"""Fixtures for the tests of model providers.

provider    a scripted provider, served over HTTP
chat        a client of this provider that uses the Chat Completions API
responses   a client of this provider that uses the Responses API
clock       a clock that only the test changes
"""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import pytest

from domain.errors import ModelFailed
from infrastructure.settings import Settings
from replies.provider.provider import ModelProvider
from replies.provider.stream_parts import ItemDelta, ItemDone, ItemStarted, PartStarted, StreamPart
from tests.scripted_provider import Exchange, ScriptedProvider, scripted_provider

BODY = {"model": "scripted", "stream": True}
MESSAGE = {"type": "message", "role": "assistant"}
CHUNK = b'{"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}'
"""A complete answer of `/chat/completions` in one event."""


class Clock:
    """A clock whose time changes only when a test sets `now`, in seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    yield from scripted_provider()


@pytest.fixture
async def chat(provider: ScriptedProvider) -> AsyncIterator[ModelProvider]:
    client = ModelProvider(Settings(openai_base_url=provider.url, model_timeout=1))
    yield client
    await client.close()


@pytest.fixture
async def responses(provider: ScriptedProvider) -> AsyncIterator[ModelProvider]:
    client = ModelProvider(Settings(openai_base_url=provider.url, model_timeout=1, model_api="responses"))
    yield client
    await client.close()


async def parts_of(client: ModelProvider, body: Mapping[str, Any] = BODY) -> list[StreamPart]:
    return [part async for part in client.stream(body)]


async def failure_of(client: ModelProvider, body: Mapping[str, Any] = BODY) -> ModelFailed:
    with pytest.raises(ModelFailed) as failed:
        await parts_of(client, body)
    return failed.value


def write(*chunks: bytes) -> Callable[[Exchange], None]:
    """A script that sends exactly these bytes. It flushes after each chunk."""

    def script(exchange: Exchange) -> None:
        exchange.begin_stream()
        for chunk in chunks:
            exchange.wfile.write(chunk)
            exchange.wfile.flush()

    return script


def joined(parts: list[StreamPart]) -> list[tuple[dict[str, object], str]]:
    """Returns (item, text) for each item of the answer. The item includes the fields of its ItemDone.

    For each PartStarted, the text contains its kind in brackets.
    """
    items: list[tuple[dict[str, object], str]] = []
    for part in parts:
        match part:
            case ItemStarted():
                items.append((part.item, ""))
            case PartStarted():
                items[-1] = (items[-1][0], f"{items[-1][1]}[{part.kind}]")
            case ItemDelta():
                assert part.text
                items[-1] = (items[-1][0], items[-1][1] + part.text)
            case ItemDone():
                items[-1] = ({**items[-1][0], **part.fields}, items[-1][1])
    return items
