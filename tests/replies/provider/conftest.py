"""A scripted provider over HTTP, and models that ask it: `chat` and `responses` speak its two APIs."""

from collections.abc import AsyncIterator, Iterator

import pytest

from infrastructure.settings import Settings
from replies.provider.provider import ModelProvider
from replies.provider.stream_parts import ItemDelta, ItemDone, ItemStarted, Piece
from tests.provider import Provider
from tests.provider import provider as running_provider

BODY = {"model": "scripted", "stream": True}


@pytest.fixture
def provider() -> Iterator[Provider]:
    yield from running_provider()


@pytest.fixture
async def chat(provider: Provider) -> AsyncIterator[ModelProvider]:
    model = ModelProvider(Settings(openai_base_url=provider.url, model_timeout=1))
    yield model
    await model.close()


@pytest.fixture
async def responses(provider: Provider) -> AsyncIterator[ModelProvider]:
    model = ModelProvider(Settings(openai_base_url=provider.url, model_timeout=1, model_api="responses"))
    yield model
    await model.close()


async def pieces_of(model: ModelProvider) -> list[Piece]:
    return [piece async for piece in model.stream(BODY)]


def joined(pieces: list[Piece]) -> list[tuple[dict[str, object], str]]:
    """Each item with its text, what it was told whole included. Fails where the pieces break their contract."""
    items: list[tuple[dict[str, object], str]] = []
    for piece in pieces:
        match piece:
            case ItemStarted():
                items.append((piece.item, ""))
            case ItemDelta():
                assert piece.text
                items[-1] = (items[-1][0], items[-1][1] + piece.text)
            case ItemDone():
                items[-1] = ({**items[-1][0], **piece.fields}, items[-1][1])
    return items
