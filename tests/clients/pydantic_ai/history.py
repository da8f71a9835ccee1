"""Pydantic AI. The program keeps the messages and sends all of them with every turn, which is the default."""

import asyncio
from pathlib import Path

from openai import AsyncOpenAI
from pydantic_ai import Agent, ModelMessagesTypeAdapter
from pydantic_ai.models.openai import OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

client = AsyncOpenAI(base_url="http://127.0.0.1:8000/v1", api_key="any")
agent = Agent(OpenAIResponsesModel("smollm2-135m", provider=OpenAIProvider(openai_client=client)))


@agent.tool_plain
def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


async def main() -> None:
    saved = Path("messages.json")
    messages = ModelMessagesTypeAdapter.validate_json(saved.read_bytes()) if saved.exists() else []

    run = await agent.run("What is my name?", message_history=messages)
    print(run.output)

    async with agent.run_stream("Think! My name is Ada.", message_history=run.all_messages()) as stream:
        async for text in stream.stream_text(delta=True):
            print(text, end="", flush=True)
    print()

    run = await agent.run("How is the weather in Paris?", message_history=stream.all_messages())
    print(run.output)
    saved.write_bytes(run.all_messages_json())
    print(run.all_messages()[-1].provider_response_id)


asyncio.run(main())
