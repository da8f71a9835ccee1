"""The OpenAI Agents SDK for Python. The store keeps the conversation; the program sends only what is new."""

import asyncio
import sys

from agents import Agent, OpenAIResponsesModel, RunConfig, Runner, function_tool
from openai import AsyncOpenAI
from openai.types.responses import ResponseTextDeltaEvent


@function_tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


async def main() -> None:
    client = AsyncOpenAI(base_url="http://127.0.0.1:8000/v1", api_key="any")
    conversation = sys.argv[1] if sys.argv[1:] else (await client.conversations.create()).id
    agent = Agent(name="Helper", model=OpenAIResponsesModel("smollm2-135m", client), tools=[weather])
    quiet = RunConfig(tracing_disabled=True)

    print((await Runner.run(agent, "What is my name?", conversation_id=conversation, run_config=quiet)).final_output)

    run = Runner.run_streamed(agent, "Think! My name is Ada.", conversation_id=conversation, run_config=quiet)
    async for event in run.stream_events():
        if event.type == "raw_response_event" and isinstance(event.data, ResponseTextDeltaEvent):
            print(event.data.delta, end="", flush=True)
    print()

    question = "How is the weather in Paris?"
    print((await Runner.run(agent, question, conversation_id=conversation, run_config=quiet)).final_output)
    print(conversation)


asyncio.run(main())
