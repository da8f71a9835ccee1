"""The OpenAI SDK for Python."""

import json
import sys

from openai import OpenAI

MODEL = "smollm2-135m"
WEATHER = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}

client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="any")
conversation = sys.argv[1] if sys.argv[1:] else client.conversations.create().id
turn = {"model": MODEL, "conversation": conversation}

print(client.responses.create(**turn, input="What is my name?").output_text)

with client.responses.stream(**turn, input="Think! My name is Ada.") as stream:
    for event in stream:
        if event.type == "response.output_text.delta":
            print(event.delta, end="", flush=True)
print()

answer = client.responses.create(**turn, input="How is the weather in Paris?", tools=[WEATHER])
while calls := [item for item in answer.output if item.type == "function_call"]:
    outputs = [
        {
            "type": "function_call_output",
            "call_id": call.call_id,
            "output": f"sunny in {json.loads(call.arguments)['city']}",
        }
        for call in calls
    ]
    answer = client.responses.create(**turn, input=outputs, tools=[WEATHER])
print(answer.output_text)
print(conversation)
