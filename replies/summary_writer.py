"""Asks a model for a summary of items, in portions that fit its window. Stores nothing."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from context.models import Models
from context.rendering import render
from context.summaries import AFTER, SO_FAR, can_end_at, omit_middle, portions, transcript, truncate
from context.tokens import count, count_off_loop
from domain.errors import ModelFailed
from domain.events import Usage
from domain.items import Item

if TYPE_CHECKING:  # only for types, because the provider's client is slow to import
    from replies.provider.provider import ModelProvider

MAX_MODEL_CALLS = 8
"""The summary does not cover items that would need more calls."""

MIN_SUMMARY_TOKENS = 16
MIN_PORTION_TOKENS = 64
"""If the limits leave fewer tokens, no summary is written."""


class SummaryInput:
    """The items to summarize. `texts`: what the model gets for each item. `sizes`: the tokens of each text and its line break."""

    def __init__(self, encoding: str, portion_tokens: int) -> None:
        self.items: list[Item] = []
        self.texts: list[str] = []
        self.sizes: list[int] = []
        self._encoding = encoding
        self._portion_tokens = portion_tokens
        self._tokens = 0

    @property
    def is_full(self) -> bool:
        return self._tokens > self._portion_tokens * MAX_MODEL_CALLS

    @property
    def portions(self) -> list[int]:
        """Where each portion ends, as an index into `items`."""
        return portions(self.items, self.sizes, self._portion_tokens)

    async def add(self, item: Item) -> None:
        """Leaves out the middle of an item that is longer than a portion."""
        text = transcript(item)
        if len(text) > self._portion_tokens:
            shorten = partial(omit_middle, text, self._portion_tokens, partial(count, encoding=self._encoding))
            text = await asyncio.to_thread(shorten)
        [tokens] = await count_off_loop([text], self._encoding)
        self.items.append(item)
        self.texts.append(text)
        self.sizes.append(tokens + 1)
        self._tokens += tokens + 1


class WrittenSummary(Struct, frozen=True):
    """Covers the first `covered` items. `usage`: the usage of the calls that wrote the summary."""

    text: str
    covered: int
    usage: Usage


async def portion_tokens(models: Models, model: str, prompt: str, max_tokens: int) -> int:
    """How many tokens of items fit in one call beside the prompt, the old summary and a new summary of `max_tokens`."""
    [prompt_tokens] = await count_off_loop([prompt], models.encoding(model))
    return models.max_request_tokens(model, reserved=max_tokens) - prompt_tokens - max_tokens - MIN_PORTION_TOKENS


async def write_summary(
    provider: "ModelProvider",
    models: Models,
    model: str,
    summary_input: SummaryInput,
    *,
    prompt: str,
    previous: str,
    max_tokens: int,
    spend: Callable[[int], None],
    parameters: Mapping[str, Any] = MappingProxyType({}),
) -> WrittenSummary | None:
    """Summarizes `previous` and `summary_input` in at most `max_tokens` tokens.

    Covers only complete turns, at most as many as fit in MAX_MODEL_CALLS calls. Returns None if the model wrote nothing,
    or if no turn can be covered. Raises ModelFailed if a call fails before any turn is covered.
    """
    encoding = models.encoding(model)
    written: WrittenSummary | None = None
    summary, usage, begin = previous, Usage(), 0
    ends = summary_input.portions[:MAX_MODEL_CALLS]
    while ends and not can_end_at(summary_input.items, ends[-1]):
        ends.pop()  # the portion ends within a turn, so a summary up to there could not be used
    for end in ends:
        body = _body(
            models.renderer,
            model,
            prompt=prompt,
            summary=summary,
            texts=summary_input.texts[begin:end],
            parameters={**parameters, "max_output_tokens": max_tokens},
        )
        try:
            answer = await provider.complete_text(body)
        except ModelFailed:
            if written is None:
                raise
            break
        of_call = answer.usage or Usage()
        spend(of_call.input_tokens + of_call.output_tokens)
        usage = _sum(usage, of_call)
        # Counting a long answer would block the event loop.
        summary = await asyncio.to_thread(truncate, answer.text, max_tokens, partial(count, encoding=encoding))
        begin = end
        if not summary:
            break
        if can_end_at(summary_input.items, end):
            written = WrittenSummary(summary, end, usage)
    return written


def _sum(one: Usage, other: Usage) -> Usage:
    return Usage(**{name: getattr(one, name) + getattr(other, name) for name in Usage.__struct_fields__})


def _body(
    renderer: int, model: str, *, prompt: str, summary: str, texts: Sequence[str], parameters: Mapping[str, Any]
) -> Mapping[str, Any]:
    text = "\n".join(text for text in texts if text)
    content = f"{SO_FAR}{summary}\n\n{AFTER}{text}" if summary else text
    return render(
        renderer,
        model=model,
        instructions=[prompt],
        summary=None,
        items=[{"type": "message", "role": "user", "content": content}],
        parameters=parameters,
    )
