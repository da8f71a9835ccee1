"""Chat Completions with the stream helper of the OpenAI SDK for Python. The program sends the helper's final messages again as they are."""

import json
from pathlib import Path

from openai import OpenAI, pydantic_function_tool
from pydantic import BaseModel


class Weather(BaseModel):
    """The weather in a city."""

    city: str


client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="any")
file = Path("messages.json")
messages = json.loads(file.read_text()) if file.exists() else []


def reply(**options):
    """Prints the answer to all messages, and keeps it."""
    with client.chat.completions.stream(model="smollm2-135m", messages=messages, **options) as stream:
        for event in stream:
            if event.type == "content.delta":
                print(event.delta, end="", flush=True)
    message = stream.get_final_completion().choices[0].message
    messages.append(message)
    return message


for question in ("What is my name?", "Think! My name is Ada."):
    messages.append({"role": "user", "content": question})
    reply()
    print()

messages.append({"role": "user", "content": "How is the weather in Paris?"})
while calls := reply(tools=[pydantic_function_tool(Weather)]).tool_calls:
    for call in calls:
        output = f"sunny in {call.function.parsed_arguments.city}"
        messages.append({"role": "tool", "tool_call_id": call.id, "content": output})
print()

file.write_text(json.dumps([m if isinstance(m, dict) else m.model_dump(mode="json") for m in messages]))
