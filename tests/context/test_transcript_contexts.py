"""The context of a Chat Completions request has all of its messages, however many tokens they have."""

from typing import Any, cast

import pytest

from context.assembly import SharedContexts
from context.history_backwards import RecentItems
from context.item_tokens import counted_parameters, counted_text, fixed_tokens
from context.message_counts import MAX_COUNTED_CHARACTERS, MessageCounts
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
async def test_all_messages_are_sent_and_counted_despite_a_small_window(model_api: str) -> None:
    models = Models(Settings(model_api=model_api, model_window=50))
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


async def test_the_sum_is_the_same_if_some_messages_were_counted_before() -> None:
    encoding, counts, none_kept = "o200k_base", MessageCounts(), MessageCounts(max_counts=0)
    tea = {"role": "user", "content": "tea"}
    for messages in (MESSAGES[:6], MESSAGES, [*MESSAGES, tea], [*MESSAGES[:5], tea], [MESSAGES[0], *MESSAGES[2:], tea]):
        for _ in range(2):
            sent = sent_messages(messages)
            assert await counts.total(sent, encoding) == await none_kept.total(sent, encoding)
    assert await counts.total(sent_messages(MESSAGES), encoding) == tokens_of(INPUT, encoding)
    sent = sent_messages([*MESSAGES, tea])
    assert await counts.total(sent, "cl100k_base") == tokens_of(INPUT, "cl100k_base") + 5
    assert await counts.total(sent_messages([]), encoding) == 0


async def test_the_estimated_count_of_very_long_texts_is_almost_exact() -> None:
    text = "tea and water, " * 200_000
    messages = [{"role": "user", "content": text[:2_000_000]}, {"role": "user", "content": text[2_000_000:]}]
    assert len(text) > 2 * MAX_COUNTED_CHARACTERS
    exact = sum(count(message["content"], "o200k_base") + 4 for message in messages)
    assert abs(await MessageCounts().total(sent_messages(messages), "o200k_base") - exact) < exact / 1000
