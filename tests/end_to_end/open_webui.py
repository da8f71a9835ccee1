"""The requests of Open WebUI 0.12.4, a chat interface that keeps its chats itself and speaks Chat Completions.

The shapes come from the source code, https://github.com/open-webui/open-webui, folder `backend/open_webui`:

chat        utils/middleware.py: process_chat_payload, process_messages_with_output. At most one system message, with the date
            (utils/task.py: prompt_template). A saved answer is sent with its text and calls, without reasoning.
usage       main.py: `stream_options` for models that report usage.
files       utils/middleware.py: apply_source_context_to_messages; utils/misc.py: update_message_content. The last question is sent
            with a template and the sources before it. The next request has the plain question.
tools       utils/misc.py: convert_output_to_messages. A message with calls and without text has the content "". utils/middleware.py,
            streaming_chat_response_handler: while calls are answered, the first message with calls also has the `usage` of the last answer.
background  routers/tasks.py and the templates in config.py: the last messages are sent as text, in one question.
continue    utils/middleware.py: process_chat_payload (`assistant_message_id`). The messages end with the answer so far.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from msgspec import Struct

MODEL = "smollm2-135m"
USAGE = {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}
TASKS = {
    "title": ("Generate a concise title summarizing the chat history.", '{ "title": "your concise title here" }', 2),
    "tags": ("Generate 1-3 broad tags categorizing the main themes of the chat history.", '{ "tags": ["tag"] }', 6),
    "follow_ups": ("Predict 3-5 useful messages this user might naturally send next.", '{ "follow_ups": ["…"] }', 5),
    "queries": ("Analyze the chat history to determine the necessity of generating search queries.", "JSON", 6),
}
"""Each has the task, the form of the answer, and how many of the last messages are sent."""

Message = dict[str, Any]


class Answered(Struct, frozen=True):
    text: str
    calls: list[dict[str, Any]]
    conversation: str


class OpenWebUI:
    """One chat. `messages`: the shown branch. `sent`: the messages of each request."""

    def __init__(self, http: httpx.Client, system: Callable[[], str]) -> None:
        self.messages: list[Message] = []
        self.sent: list[list[Message]] = []
        self._http = http
        self._system = system

    def ask(self, question: str, *, sources: str = "") -> Answered:
        """Asks a question. `sources`: text from the chat's files."""
        self.messages.append({"role": "user", "content": question})
        return self.answer(sources=sources)

    def answer(self, *, sources: str = "") -> Answered:
        """Asks for an answer to the last question."""
        answered = self.send(_with_sources(self.messages, sources))
        self.messages.append({"role": "assistant", "content": answered.text})
        return answered

    def regenerate(self) -> Answered:
        self.messages.pop()
        return self.answer()

    def edit(self, index: int, question: str) -> Answered:
        del self.messages[index:]
        return self.ask(question)

    def ask_with_tools(self, question: str, tools: dict[str, Callable[..., str]]) -> Iterator[Answered]:
        """Yields each answer. The last answer has no call."""
        history = [*self.messages, {"role": "user", "content": question}]
        steps: list[Message] = []
        while True:
            in_loop = [{**steps[0], "usage": USAGE}, *steps[1:]] if steps else []
            answered = self.send([*history, *in_loop], tools=[_specification(name) for name in tools])
            yield answered
            if not answered.calls:
                break
            steps.append({"role": "assistant", "content": answered.text, "tool_calls": answered.calls})
            for call in answered.calls:
                output = tools[call["function"]["name"]](**json.loads(call["function"]["arguments"]))
                steps.append({"role": "tool", "tool_call_id": call["id"], "content": output})
        self.messages = [*history, *steps, {"role": "assistant", "content": answered.text}]

    def stop(self, question: str, words: int) -> None:
        """Asks a question, and disconnects after some words. The words that arrived are kept."""
        self.messages.append({"role": "user", "content": question})
        text = ""
        with self._stream(self.messages) as (_, chunks):
            while len(text.split()) < words:
                delta = next(chunks)["choices"][0]["delta"]
                text += delta.get("content") or ""
        self.messages.append({"role": "assistant", "content": text})

    def continue_answer(self) -> Answered:
        """Continues a stopped answer. Both parts are then one message."""
        answered = self.send(self.messages)
        self.messages[-1] = {"role": "assistant", "content": self.messages[-1]["content"] + answered.text}
        return answered

    def background(self, task: str) -> Answered:
        """Requests a title, tags, follow-up questions or search queries."""
        goal, form, count = TASKS[task]
        history = "\n".join(f"{message['role'].upper()}: {message['content']}" for message in self.messages[-count:])
        prompt = (
            f"### Task:\n{goal}\n### Output:\nJSON format: {form}\n### Chat History:\n"
            f"<chat_history>\n{history}\n</chat_history>"
        )
        messages = [{"role": "user", "content": prompt}]
        self.sent.append(messages)
        body = {"model": MODEL, "messages": messages, "stream": False}
        answer = self._http.post("/v1/chat/completions", json=body).raise_for_status()
        text = answer.json()["choices"][0]["message"]["content"]
        return Answered(text, [], answer.headers["x-conversation-id"])

    def send(self, messages: list[Message], **parameters: Any) -> Answered:
        text, calls = "", dict[int, dict[str, Any]]()
        with self._stream(messages, **parameters) as (conversation, chunks):
            for chunk in chunks:
                for choice in chunk["choices"]:
                    text += choice["delta"].get("content") or ""
                    for call in choice["delta"].get("tool_calls") or ():
                        _add_call(calls, call)
        return Answered(text, [calls[index] for index in sorted(calls)], conversation)

    @contextmanager
    def _stream(self, messages: list[Message], **parameters: Any) -> Iterator[tuple[str, Iterator[dict[str, Any]]]]:
        self.sent.append([{"role": "system", "content": self._system()}, *messages])
        body = {"stream": True, "model": MODEL, "messages": self.sent[-1], **parameters}
        body["stream_options"] = {"include_usage": True}
        with self._http.stream("POST", "/v1/chat/completions", json=body) as answer:
            if answer.status_code != 200:
                raise RuntimeError(answer.read().decode())
            yield answer.headers["x-conversation-id"], _chunks(answer)


def _chunks(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in answer.iter_lines():
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line.removeprefix("data: "))


def _add_call(calls: dict[int, dict[str, Any]], delta: dict[str, Any]) -> None:
    if (call := calls.get(delta["index"])) is None:
        calls[delta["index"]] = {name: value for name, value in delta.items() if name != "index"}
    else:
        call["function"]["arguments"] += delta["function"].get("arguments") or ""


def _with_sources(messages: list[Message], sources: str) -> list[Message]:
    if not sources:
        return list(messages)
    context = f'<context>\n<source id="1" name="notes.txt">{sources}</source>\n</context>'
    template = f"### Task:\nRespond to the user query using the provided context.\n\n{context}\n"
    return [*messages[:-1], {**messages[-1], "content": f"{template}\n{messages[-1]['content']}"}]


def _specification(name: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    return {"type": "function", "function": {"name": name, "description": name, "parameters": parameters}}
