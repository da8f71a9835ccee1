"""A script for the scripted provider: each answer waits until the test lets it end."""

import threading

from tests.scripted_provider import Exchange


class SlowAnswers:
    """Answers with `partial`, and after the release with `answer to <question>`."""

    def __init__(self) -> None:
        self.questions: list[str] = []
        self._released: set[str] = set()
        self._all = threading.Event()

    def release(self, *questions: str) -> None:
        """Lets the answers to these questions end. Without questions, lets all answers end."""
        self._released.update(questions)
        if not questions:
            self._all.set()

    def __call__(self, exchange: Exchange) -> None:
        question = exchange.body["messages"][-1]["content"]
        self.questions.append(question)
        exchange.begin_stream()
        exchange.text_chunk("partial ")
        while question not in self._released and not self._all.wait(0.01):
            exchange.text_chunk("")
        exchange.text_chunk(f"answer to {question}")
        exchange.text_chunk(finish_reason="stop")
        exchange.end_stream()
