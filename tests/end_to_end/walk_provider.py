"""The provider of a random walk gives each request its planned answer."""

import threading
from typing import Any

from tests.end_to_end.walk_plan import Answer
from tests.scripted_provider import Exchange

HOLD_TIMEOUT_SECONDS = 20.0


class PlannedAnswers:
    """The `seed` of a request is its number. A held answer stops after its first part, until `release`."""

    def __init__(self) -> None:
        self.received: dict[int, list[dict[str, Any]]] = {}
        self._answers: dict[int, tuple[Answer, bool]] = {}
        self._released = threading.Event()

    def plan(self, number: int, answer: Answer, *, is_held: bool = False) -> None:
        self._answers[number] = (answer, is_held)
        self.received[number] = []
        if is_held:
            self._released.clear()

    def release(self) -> None:
        self._released.set()

    def script(self, exchange: Exchange) -> None:
        number = exchange.body["seed"]
        answer, is_held = self._answers[number]
        self.received[number].append(exchange.body)
        exchange.begin_stream()
        if answer.reasoning:
            exchange.delta(reasoning_content=answer.reasoning)
        middle = len(answer.text) // 2
        for n, text in enumerate((answer.text[:middle], answer.text[middle:])):
            if text:
                exchange.text_chunk(text)
            if n == 0 and is_held:
                self._released.wait(HOLD_TIMEOUT_SECONDS)
        for index, (call_id, name, arguments) in enumerate(answer.calls):
            call = {"index": index, "id": call_id, "type": "function"}
            exchange.delta(tool_calls=[{**call, "function": {"name": name, "arguments": arguments}}])
        exchange.text_chunk(finish_reason="tool_calls" if answer.calls else "stop")
        exchange.chunk(choices=[], usage={"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9})
        exchange.end_stream()
        exchange.provider.requests.clear()  # a walk has thousands of requests
