"""Chat Completions with the OpenAI SDK for Python. The program keeps the messages, and sends all of them with every turn."""

import json
from pathlib import Path

from openai import OpenAI

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}

client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="any")
turn = {"model": "smollm2-135m"}
file = Path("messages.json")
messages = json.loads(file.read_text()) if file.exists() else []

messages.append({"role": "user", "content": "What is my name?"})
answer = client.chat.completions.create(**turn, messages=messages)
messages.append(answer.choices[0].message.model_dump())
print(messages[-1]["content"])

messages.append({"role": "user", "content": "Think! My name is Ada."})
text = ""
for chunk in client.chat.completions.create(**turn, messages=messages, stream=True):
    for choice in chunk.choices:
        text += choice.delta.content or ""
messages.append({"role": "assistant", "content": text})
print(text)

messages.append({"role": "user", "content": "How is the weather in Paris?"})
answer = client.chat.completions.create(**turn, messages=messages, tools=[WEATHER])
messages.append(answer.choices[0].message.model_dump())
while messages[-1]["tool_calls"]:
    for call in messages[-1]["tool_calls"]:
        city = json.loads(call["function"]["arguments"])["city"]
        messages.append({"role": "tool", "tool_call_id": call["id"], "content": f"sunny in {city}"})
    answer = client.chat.completions.create(**turn, messages=messages, tools=[WEATHER])
    messages.append(answer.choices[0].message.model_dump())
print(messages[-1]["content"])

file.write_text(json.dumps(messages))
