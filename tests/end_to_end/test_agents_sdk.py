"""OpenAIConversationsSession, a session class of the OpenAI Agents SDK, works unchanged."""

from collections.abc import AsyncIterator

import pytest
from agents import OpenAIConversationsSession
from openai import AsyncOpenAI

from tests.system import System

UP = ("--no-model",)


@pytest.fixture
async def session(running: System) -> AsyncIterator[OpenAIConversationsSession]:
    async with AsyncOpenAI(base_url=f"{running.base_url}/v1", api_key="any", max_retries=0) as client:
        yield OpenAIConversationsSession(openai_client=client)


def text(item: object) -> str:
    assert isinstance(item, dict)
    return str(item["content"][0]["text"])


async def test_a_session_keeps_the_order_pops_the_last_item_and_is_cleared(
    session: OpenAIConversationsSession,
) -> None:
    await session.add_items([{"type": "message", "role": "user", "content": f"item {n}"} for n in range(45)])
    assert [text(item) for item in await session.get_items()] == [f"item {n}" for n in range(45)]
    assert [text(item) for item in await session.get_items(7)] == [f"item {n}" for n in range(38, 45)]
    assert text(await session.pop_item()) == "item 44"
    assert [text(item) for item in await session.get_items(2)] == ["item 42", "item 43"]
    await session.clear_session()
    assert await session.get_items() == []
