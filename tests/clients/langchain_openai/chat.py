"""Chat Completions with LangChain, as ChatOpenAI does without other settings. The program keeps the messages."""

import json
from pathlib import Path

from langchain_core.messages import HumanMessage, messages_from_dict, messages_to_dict
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


llm = ChatOpenAI(base_url="http://127.0.0.1:8000/v1", api_key="any", model="smollm2-135m")
chat = llm.bind_tools([weather])
file = Path("messages.json")
messages = messages_from_dict(json.loads(file.read_text())) if file.exists() else []

messages.append(HumanMessage("What is my name?"))
messages.append(llm.invoke(messages))
print(messages[-1].text)

messages.append(HumanMessage("Think! My name is Ada."))
answer = None
for chunk in llm.stream(messages):
    print(chunk.text, end="", flush=True)
    answer = chunk if answer is None else answer + chunk
messages.append(answer)
print()

messages.append(HumanMessage("How is the weather in Paris?"))
messages.append(chat.invoke(messages))
while messages[-1].tool_calls:
    messages.extend([weather.invoke(call) for call in messages[-1].tool_calls])
    messages.append(chat.invoke(messages))
print(messages[-1].text)

file.write_text(json.dumps(messages_to_dict(messages)))
