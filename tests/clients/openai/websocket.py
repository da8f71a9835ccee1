"""The OpenAI SDK for Python, over one WebSocket for all turns."""

import json
import sys

from openai import OpenAI

WEATHER = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}

client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="any")
previous = sys.argv[1] if sys.argv[1:] else None


def reply(**turn):
    """Prints the answer to this turn. Returns the Response."""
    connection.response.create(model="smollm2-135m", **turn)
    for event in connection:
        if event.type == "response.output_text.delta":
            print(event.delta, end="", flush=True)
        elif event.type in ("response.completed", "response.incomplete", "response.failed"):
            return event.response
        elif event.type == "error":
            break
    raise RuntimeError(event)


with client.responses.connect() as connection:
    answer = reply(input="What is my name?", previous_response_id=previous)
    print()
    answer = reply(input="Think! My name is Ada.", previous_response_id=answer.id)
    print()
    answer = reply(input="How is the weather in Paris?", previous_response_id=answer.id, tools=[WEATHER])
    while calls := [item for item in answer.output if item.type == "function_call"]:
        outputs = [
            {
                "type": "function_call_output",
                "call_id": call.call_id,
                "output": f"sunny in {json.loads(call.arguments)['city']}",
            }
            for call in calls
        ]
        answer = reply(input=outputs, previous_response_id=answer.id, tools=[WEATHER])
    print()
print(answer.id)
