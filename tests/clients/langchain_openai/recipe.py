"""LangChain. The store keeps the conversation; the program sends only what is new."""

import sys

from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


llm = ChatOpenAI(
    base_url="http://127.0.0.1:8000/v1",
    api_key="any",
    model="smollm2-135m",
    use_responses_api=True,
)
conversation = sys.argv[1] if sys.argv[1:] else llm.root_client.conversations.create().id
chat = llm.bind_tools([weather], conversation=conversation)

print(chat.invoke([HumanMessage("What is my name?")]).text)

for chunk in chat.stream([HumanMessage("Think! My name is Ada.")]):
    print(chunk.text, end="", flush=True)
print()

answer = chat.invoke([HumanMessage("How is the weather in Paris?")])
while answer.tool_calls:
    answer = chat.invoke([weather.invoke(call) for call in answer.tool_calls])
print(answer.text)
print(conversation)
