"""GET /v1/usage: replies, tokens and cost by day and model, or by other groups. Deleted conversations still count."""

from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from tests.queries.manual_projector import ManualProjector
from tests.queries.writer import Writer


async def _reply(write: Writer, conversation_id: str, text: str) -> None:
    response_id, input_items = await write.request_reply(conversation_id, "?")
    await write.complete_reply(conversation_id, response_id, input_items, text)


async def _usage(api: httpx.AsyncClient, **parameters: str) -> Any:
    answer = await api.get("/v1/usage", params=parameters)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


async def test_completed_replies_count_once_even_if_their_conversation_was_deleted(
    api: httpx.AsyncClient, write: Writer, projector: ManualProjector
) -> None:
    await projector.catch_up()
    assert await _usage(api) == []
    conversation_ids = [await write.start("a") for _ in range(3)]
    for conversation_id in conversation_ids:
        await _reply(write, conversation_id, "one")
        await _reply(write, conversation_id, "two")
    deleted = await write.start("b")
    await _reply(write, deleted, "three")
    failed, _ = await write.request_reply(conversation_ids[0], "?")
    await write.fail_reply(conversation_ids[0], failed)
    foreign = await write.for_tenant("other").start("c")
    await _reply(write.for_tenant("other"), foreign, "four")
    await write.delete(deleted)
    await projector.catch_up()

    [day] = await _usage(api)

    today = datetime.now(UTC).date().isoformat()
    assert (day["object"], day["date"], day["replies"]) == ("usage", today, 7)
    assert day["input_tokens"] > 0
    assert await _usage(api, start=today, end=today, model=day["model"]) == [day]
    assert await _usage(api, model="another") == []
    assert await _usage(api, end="2020-01-01") == []
    assert await _usage(api, end="0001-01-01") == []


async def test_the_usage_of_a_summary_is_counted(
    api: httpx.AsyncClient, write: Writer, projector: ManualProjector
) -> None:
    conversation_id = await write.start()
    [item_id] = await write.append(conversation_id, "a")
    await write.compact(conversation_id, item_id, 1)
    await projector.catch_up()

    [day] = await _usage(api)

    counted = {
        name: day[name] for name in ("model", "replies", "summaries", "input_tokens", "output_tokens", "cost_usd")
    }
    assert counted == {
        "model": "smol",
        "replies": 0,
        "summaries": 1,
        "input_tokens": 90,
        "output_tokens": 5,
        "cost_usd": 0.000007,
    }


async def test_a_sum_with_an_unknown_price_is_null(
    api: httpx.AsyncClient, write: Writer, projector: ManualProjector
) -> None:
    conversation_id = await write.start()
    [item_id] = await write.append(conversation_id, "a")
    await write.compact(conversation_id, item_id, 1)
    await write.compact(conversation_id, item_id, 1, cost=None)
    await projector.catch_up()

    [day] = await _usage(api)

    assert (day["summaries"], day["cost_usd"]) == (2, None)


async def test_usage_is_grouped_by_user_key_conversation_and_tenant(
    api: httpx.AsyncClient, write: Writer, projector: ManualProjector
) -> None:
    first, second = await write.start("a"), await write.start("b")
    for conversation_id, subject in ((first, "ann"), (first, "ben"), (second, "ann")):
        await _reply(write.for_subject(subject), conversation_id, "one")
    await projector.catch_up()

    def rows(found: list[dict[str, Any]], *names: str) -> list[tuple[Any, ...]]:
        return [tuple(row[name] for name in (*names, "replies")) for row in found]

    assert rows(await _usage(api, group_by="user"), "user") == [("ann", 2), ("ben", 1)]
    assert rows(await _usage(api, group_by="tenant,key"), "tenant", "key") == [("default", None, 3)]
    by_conversation = await _usage(api, group_by="conversation,user")
    assert rows(by_conversation, "conversation", "user") == [(first, "ann", 1), (first, "ben", 1), (second, "ann", 1)]
    assert rows(await _usage(api, group_by="user", conversation=first), "user") == [("ann", 1), ("ben", 1)]
    [total] = await _usage(api, group_by="day", since=str(int(datetime.now(UTC).timestamp()) - 86_400))
    assert total["input_tokens"] == sum(row["input_tokens"] for row in by_conversation)
    assert "model" not in total
    assert await _usage(api, until="86400") == []
    await write.delete(first)
    await projector.catch_up()
    assert await _usage(api, group_by="conversation,user") == by_conversation


@pytest.mark.parametrize(
    "parameters",
    [
        {"start": "2026-02-02", "end": "2026-02-01"},
        {"start": "2020-01-01", "end": "2026-01-01"},
        {"end": "never"},
        {"end": "0"},
        {"start": "2026-W01-1"},
        {"group_by": "day,day"},
        {"group_by": "week"},
        {"group_by": ""},
        {"since": "-1"},
        {"until": "9" * 20},
        {"start": "2026-02-01", "since": "1796017571"},
    ],
)
async def test_the_error_for_an_invalid_period_or_group_names_the_parameter(
    api: httpx.AsyncClient, parameters: dict[str, str]
) -> None:
    answer = await api.get("/v1/usage", params=parameters)

    assert (answer.status_code, answer.json()["error"]["param"] in parameters) == (400, True)
