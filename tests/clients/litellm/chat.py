"""Chat Completions with LiteLLM. The program keeps the messages."""

import json
from pathlib import Path

import litellm

litellm.suppress_debug_info = True  # it prints a list of providers for a model that it does not know
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
STORE = {"model": "openai/smollm2-135m", "api_base": "http://127.0.0.1:8000/v1", "api_key": "any"}
file = Path("messages.json")
messages = json.loads(file.read_text()) if file.exists() else []

messages.append({"role": "user", "content": "What is my name?"})
answer = litellm.completion(**STORE, messages=messages)
messages.append(answer.choices[0].message.model_dump())
print(messages[-1]["content"])

messages.append({"role": "user", "content": "Think! My name is Ada."})
chunks = []
for chunk in litellm.completion(**STORE, messages=messages, stream=True):
    print(chunk.choices[0].delta.content or "", end="", flush=True)
    chunks.append(chunk)
answer = litellm.stream_chunk_builder(chunks)
messages.append(answer.choices[0].message.model_dump())
print()

messages.append({"role": "user", "content": "How is the weather in Paris?"})
answer = litellm.completion(**STORE, messages=messages, tools=[WEATHER])
messages.append(answer.choices[0].message.model_dump())
while messages[-1]["tool_calls"]:
    for call in messages[-1]["tool_calls"]:
        city = json.loads(call["function"]["arguments"])["city"]
        messages.append({"role": "tool", "tool_call_id": call["id"], "content": f"sunny in {city}"})
    answer = litellm.completion(**STORE, messages=messages, tools=[WEATHER])
    messages.append(answer.choices[0].message.model_dump())
print(messages[-1]["content"])

file.write_text(json.dumps(messages))
