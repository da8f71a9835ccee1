"""Pydantic AI. The store keeps the conversation; the program sends only what is new."""

import asyncio
import sys

from openai import AsyncOpenAI
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIResponsesModel, OpenAIResponsesModelSettings
from pydantic_ai.providers.openai import OpenAIProvider

client = AsyncOpenAI(base_url="http://127.0.0.1:8000/v1", api_key="any")
agent = Agent(OpenAIResponsesModel("smollm2-135m", provider=OpenAIProvider(openai_client=client)))


@agent.tool_plain
def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


async def main() -> None:
    conversation = sys.argv[1] if sys.argv[1:] else (await client.conversations.create()).id
    settings = OpenAIResponsesModelSettings(openai_conversation_id=conversation)

    print((await agent.run("What is my name?", model_settings=settings)).output)

    async with agent.run_stream("Think! My name is Ada.", model_settings=settings) as run:
        async for text in run.stream_text(delta=True):
            print(text, end="", flush=True)
    print()

    print((await agent.run("How is the weather in Paris?", model_settings=settings)).output)
    print(conversation)


asyncio.run(main())
