"""The OpenAI Agents SDK for Python. A session keeps the conversation in the store."""

import asyncio
import sys

from agents import Agent, OpenAIConversationsSession, OpenAIResponsesModel, RunConfig, Runner, function_tool
from openai import AsyncOpenAI
from openai.types.responses import ResponseTextDeltaEvent


@function_tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


async def main() -> None:
    client = AsyncOpenAI(base_url="http://127.0.0.1:8000/v1", api_key="any")
    session = OpenAIConversationsSession(conversation_id=sys.argv[1] if sys.argv[1:] else None, openai_client=client)
    agent = Agent(name="Helper", model=OpenAIResponsesModel("smollm2-135m", client), tools=[weather])
    quiet = RunConfig(tracing_disabled=True)

    print((await Runner.run(agent, "What is my name?", session=session, run_config=quiet)).final_output)

    run = Runner.run_streamed(agent, "Think! My name is Ada.", session=session, run_config=quiet)
    async for event in run.stream_events():
        if event.type == "raw_response_event" and isinstance(event.data, ResponseTextDeltaEvent):
            print(event.data.delta, end="", flush=True)
    print()

    question = "How is the weather in Paris?"
    print((await Runner.run(agent, question, session=session, run_config=quiet)).final_output)
    print(session.session_id)


asyncio.run(main())
