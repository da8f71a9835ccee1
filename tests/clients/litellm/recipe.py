"""LiteLLM. The store keeps the conversation; the program sends only what is new, and the id of the last response."""

import json
import sys

import litellm

WEATHER = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}
STORE = {"model": "openai/smollm2-135m", "api_base": "http://127.0.0.1:8000/v1", "api_key": "any"}
previous = sys.argv[1] if sys.argv[1:] else None

answer = litellm.responses(**STORE, input="What is my name?", previous_response_id=previous)
print(answer.output_text)

for event in litellm.responses(**STORE, input="Think! My name is Ada.", previous_response_id=answer.id, stream=True):
    if event.type == "response.output_text.delta":
        print(event.delta, end="", flush=True)
    if event.type == "response.completed":
        answer = event.response
print()

answer = litellm.responses(
    **STORE, input="How is the weather in Paris?", previous_response_id=answer.id, tools=[WEATHER]
)
while calls := [item for item in answer.output if item.type == "function_call"]:
    outputs = [
        {
            "type": "function_call_output",
            "call_id": call.call_id,
            "output": f"sunny in {json.loads(call.arguments)['city']}",
        }
        for call in calls
    ]
    answer = litellm.responses(**STORE, input=outputs, previous_response_id=answer.id, tools=[WEATHER])
print(answer.output_text)
print(answer.id)
