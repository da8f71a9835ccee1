"""The context of a Chat Completions request: all of its messages, counted but never left out."""

import asyncio
from typing import Any, cast

import pytest

from context.assembly import SharedContexts
from context.history_backwards import RecentItems
from context.item_tokens import counted_parameters, counted_text, fixed_tokens
from context.message_counts import MessageCounts
from context.models import Models
from context.rendering import render_transcript, request_sha256
from context.tokens import count
from context.transcripts.known_messages import sent_messages
from domain.events import Shown
from infrastructure.settings import Settings
from tests.context.test_transcript_renderers import INPUT, MESSAGES, PARAMETERS


async def no_snapshot(tenant: str, conversation_id: str, max_tokens: int) -> RecentItems | None:
    return None


def tokens_of(items: list[dict[str, Any]], encoding: str) -> int:
    return sum(count(counted_text(item), encoding) + fixed_tokens(item) for item in items)


@pytest.mark.parametrize("model_api", ["chat", "responses"])
async def test_given_a_model_with_a_small_window_then_all_messages_are_sent_and_counted(model_api: str) -> None:
    models = Models(Settings(model_api=model_api, model_window=50))
    # Nothing is read from the log.
    contexts = SharedContexts(models, no_snapshot).of(cast("Any", None))
    for model, encoding in (("gpt-5", "o200k_base"), ("gpt-4", "cl100k_base")):
        context = await contexts.assemble_transcript(
            model=model, parameters=PARAMETERS, sent=sent_messages(MESSAGES), version=7
        )
        renderer = 7 if model_api == "responses" else 6
        body = render_transcript(renderer, model=model, messages=MESSAGES, parameters=PARAMETERS)
        assert context.body == body
        assert context.shown == Shown(
            version=7,
            ranges=(),
            budget=50,
            tokens=tokens_of(INPUT, encoding) + count(counted_parameters(PARAMETERS), encoding),
            encoding=encoding,
            renderer=renderer,
            request_sha256=request_sha256(body),
        )


async def test_given_messages_that_were_counted_when_they_come_again_then_they_have_the_same_counts() -> None:
    counts = MessageCounts()
    first = await counts.of(sent_messages(MESSAGES), "o200k_base")
    assert await counts.of(sent_messages([*MESSAGES[5:], {"role": "user", "content": "tea"}]), "o200k_base") == [
        *first[5:],
        5,
    ]
    assert sum(first) == tokens_of(INPUT, "o200k_base")


async def test_given_a_full_cache_when_a_count_is_displaced_while_others_are_counted_then_it_is_still_returned() -> (
    None
):
    counts = MessageCounts(max_counts=2)
    tea, milk, water = ({"role": "user", "content": text} for text in ("tea", "milk", "water"))
    long = {"role": "user", "content": "tea " * 20_000}
    await counts.of(sent_messages([tea]), "o200k_base")
    tokens, _ = await asyncio.gather(
        counts.of(sent_messages([tea, long]), "o200k_base"), counts.of(sent_messages([milk, water]), "o200k_base")
    )
    assert tokens[0] == 5
