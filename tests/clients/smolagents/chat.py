"""Chat Completions with smolagents: an agent that calls tools, and keeps the messages in its memory."""

import pickle
from pathlib import Path

from smolagents import OpenAIModel, ToolCallingAgent, tool


@tool
def weather(city: str) -> str:
    """The weather in a city.

    Args:
        city: the name of the city
    """
    return f"sunny in {city}"


model = OpenAIModel("smollm2-135m", api_base="http://127.0.0.1:8000/v1", api_key="any")
agent = ToolCallingAgent(tools=[weather], model=model, stream_outputs=True)
file = Path("memory.pickle")
if file.exists():
    agent.memory.steps = pickle.loads(file.read_bytes())

questions = ["What is my name?", "Think! My name is Ada.", "How is the weather in Paris?"]
answers = [agent.run(question, reset=not agent.memory.steps) for question in questions]
print("", *answers, sep="\n")

file.write_bytes(pickle.dumps(agent.memory.steps))
