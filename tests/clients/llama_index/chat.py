"""Chat Completions with LlamaIndex: an agent with a tool. The program keeps the messages.

`OpenAI` takes only names of models that it knows. `OpenAILike` sends the same requests, and takes any name.
"""

import asyncio
import json
from pathlib import Path

from llama_index.core.agent.workflow import AgentStream, FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.llms.openai_like import OpenAILike


def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


llm = OpenAILike(
    api_base="http://127.0.0.1:8000/v1",
    api_key="any",
    model="smollm2-135m",
    is_chat_model=True,
    is_function_calling_model=True,
)
agent = FunctionAgent(tools=[weather], llm=llm)
file = Path("messages.json")
kept = json.loads(file.read_text()) if file.exists() else []
memory = ChatMemoryBuffer.from_defaults(chat_history=[ChatMessage.model_validate(message) for message in kept])


async def main() -> None:
    for question in ("What is my name?", "Think! My name is Ada.", "How is the weather in Paris?"):
        run = agent.run(question, memory=memory)
        async for event in run.stream_events():
            if isinstance(event, AgentStream):
                print(event.delta, end="", flush=True)
        await run
        print()
    file.write_text(json.dumps([message.model_dump(mode="json") for message in memory.get_all()]))


asyncio.run(main())
