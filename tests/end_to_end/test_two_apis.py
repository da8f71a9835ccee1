"""Concurrent appends to one conversation, through two api processes."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import httpx
import pytest
from openai import OpenAI
from prometheus_client.parser import text_string_to_metric_families

from domain.events import ItemAppended
from domain.items import from_stored
from scripts.http_connection import Answer, Connection
from tests.log import Log
from tests.system import System

UP = ("--no-model", "--apis", "2")
APPENDS = 1_000
NO_HEADERS: Mapping[str, str] = MappingProxyType({})


@pytest.fixture
def log(running: System) -> Log:
    return Log(running.env["POSTGRES_URL"])


@pytest.fixture
def conversation_id(client: OpenAI) -> str:
    return str(client.conversations.create().id)


def append(conversation_id: str, text: str) -> tuple[str, bytes]:
    body = f'{{"items": [{{"type": "message", "role": "user", "content": "{text}"}}]}}'
    return f"/v1/conversations/{conversation_id}/items", body.encode()


async def send_concurrently(
    urls: Sequence[str], requests: Sequence[tuple[str, bytes]], headers: Mapping[str, str] = NO_HEADERS
) -> list[Answer]:
    connections = await asyncio.gather(*(Connection.open(urls[n % len(urls)]) for n in range(len(requests))))
    try:
        # Waits until the server has accepted every connection, so that the requests arrive together.
        await asyncio.gather(*(connection.request("GET", "/health/live") for connection in connections))
        posts = zip(connections, requests, strict=True)
        return await asyncio.gather(
            *(connection.request("POST", path, body, headers) for connection, (path, body) in posts)
        )
    finally:
        for connection in connections:
            connection.close()


@pytest.fixture
def metrics_urls(running: System) -> list[str]:
    return [running.env["API_1_METRICS_URL"], running.env["API_2_METRICS_URL"]]


def counter_value(url: str, name: str, **labels: str) -> int:
    samples = (sample for family in text_string_to_metric_families(httpx.get(url).text) for sample in family.samples)
    return int(
        sum(
            sample.value
            for sample in samples
            if sample.name == f"conversation_store_{name}" and sample.labels == labels
        )
    )


def appended_items(url: str) -> int:
    return counter_value(url, "events_appended_total", type="item.appended")


def item_id_of(answer: Answer) -> str:
    [item] = answer.json()["data"]
    return str(item["id"])


async def test_a_thousand_concurrent_appends_through_two_processes_have_one_order(
    urls: list[str], metrics_urls: list[str], log: Log, conversation_id: str
) -> None:
    before = [appended_items(url) for url in metrics_urls]

    answers = await send_concurrently(urls, [append(conversation_id, f"{n}") for n in range(APPENDS)])

    assert Counter(answer.status for answer in answers) == {200: APPENDS}
    assert [appended_items(url) - count for url, count in zip(metrics_urls, before, strict=True)] == [APPENDS // 2] * 2
    assert log.versions(conversation_id) == list(range(1, APPENDS + 2))
    items = [event for event in log.events(conversation_id) if isinstance(event, ItemAppended)]
    order = [event.item_id for event in items]
    assert len(set(order)) == APPENDS
    assert [event.parent_id for event in items] == [None, *order[:-1]]
    assert [event.depth for event in items] == list(range(1, APPENDS + 1))
    by_version = {int(answer.headers["etag"].strip('"')): answer for answer in answers}
    assert [item_id_of(by_version[version]) for version in range(2, APPENDS + 2)] == order
    positions = [int(by_version[version].headers["x-position"]) for version in range(2, APPENDS + 2)]
    assert positions == sorted(positions)
    for url in urls:
        # On a slow machine the views may be behind. Then the SDK retries the read.
        with OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=5) as client:
            pages = client.conversations.items
            assert [item.id for item in pages.list(conversation_id, order="asc", limit=100)] == order
            assert [item.id for item in pages.list(conversation_id, order="desc", limit=100)] == order[::-1]


async def test_one_of_a_thousand_appends_with_the_same_if_match_is_stored(
    urls: list[str], metrics_urls: list[str], log: Log, conversation_id: str
) -> None:
    events = log.count()
    before = [counter_value(url, "append_conflicts_total", reason="if_match") for url in metrics_urls]

    answers = await send_concurrently(
        urls, [append(conversation_id, f"{n}") for n in range(APPENDS)], {"if-match": '"1"'}
    )

    assert Counter(answer.status for answer in answers) == {200: 1, 412: APPENDS - 1}
    assert {answer.headers["etag"] for answer in answers} == {'"2"'}
    refused = [counter_value(url, "append_conflicts_total", reason="if_match") for url in metrics_urls]
    assert sorted(now - count for now, count in zip(refused, before, strict=True)) == [APPENDS // 2 - 1, APPENDS // 2]
    assert log.count() == events + 1
    [winner] = [answer for answer in answers if answer.status == 200]
    _, item = log.events(conversation_id)
    assert isinstance(item, ItemAppended)
    assert item.item_id == item_id_of(winner)
    assert from_stored(item.item)["content"] == str(answers.index(winner))


async def test_a_hundred_appends_with_one_idempotency_key_store_one_item(
    urls: list[str], log: Log, conversation_id: str
) -> None:
    answers = await send_concurrently(
        urls, [append(conversation_id, "the same")] * 100, {"idempotency-key": conversation_id}
    )

    assert {(answer.status, answer.body, answer.headers["etag"]) for answer in answers} == {
        (200, answers[0].body, '"2"')
    }
    assert Counter(answer.headers.get("idempotent-replayed") for answer in answers) == {None: 1, "true": 99}
    _, item = log.events(conversation_id)
    assert isinstance(item, ItemAppended)
    assert item.item_id == item_id_of(answers[0])
