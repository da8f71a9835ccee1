"""Chat Completions with LlamaIndex's class OpenAI, which takes only names of models that it knows. The program keeps the messages."""

import json
from pathlib import Path

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai import OpenAI


def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


llm = OpenAI(api_base="http://127.0.0.1:8000/v1", api_key="any", model="gpt-4.1-mini")
tool = FunctionTool.from_defaults(weather)
file = Path("messages.json")
kept = json.loads(file.read_text()) if file.exists() else []
messages = [ChatMessage.model_validate(message) for message in kept]

messages.append(ChatMessage("What is my name?"))
messages.append(llm.chat(messages).message)
print(messages[-1].content)

messages.append(ChatMessage("Think! My name is Ada."))
for answer in llm.stream_chat(messages):
    print(answer.delta, end="", flush=True)
messages.append(answer.message)
print()

messages.append(ChatMessage("How is the weather in Paris?"))
answer = llm.chat_with_tools([tool], chat_history=messages)
messages.append(answer.message)
while calls := llm.get_tool_calls_from_response(answer, error_on_no_tool_call=False):
    for call in calls:
        output = tool(**call.tool_kwargs).content
        messages.append(ChatMessage(output, role="tool", additional_kwargs={"tool_call_id": call.tool_id}))
    answer = llm.chat_with_tools([tool], chat_history=messages)
    messages.append(answer.message)
print(messages[-1].content)

file.write_text(json.dumps([message.model_dump(mode="json") for message in messages]))
