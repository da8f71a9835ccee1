"""A thousand appends at once to one conversation, half of them to either of two api processes."""

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
def apis(running: System) -> list[str]:
    """Where each of the two processes answers by itself."""
    return [running.env[f"API_{number}_URL"] for number in (1, 2)]


@pytest.fixture
def log(running: System) -> Log:
    return Log(running.env["POSTGRES_URL"])


@pytest.fixture
def conversation_id(client: OpenAI) -> str:
    return str(client.conversations.create().id)


def append(conversation_id: str, text: str) -> tuple[str, bytes]:
    """The path and the body of a request."""
    body = f'{{"items": [{{"type": "message", "role": "user", "content": "{text}"}}]}}'
    return f"/v1/conversations/{conversation_id}/items", body.encode()


async def at_once(
    urls: Sequence[str], requests: Sequence[tuple[str, bytes]], headers: Mapping[str, str] = NO_HEADERS
) -> list[Answer]:
    """Posts every (path, body) at the same time, by turns to `urls`; the answers, in the order of the requests."""
    opened = await asyncio.gather(*(Connection.open(urls[n % len(urls)]) for n in range(len(requests))))
    try:
        # A connection that has been answered once is accepted: the requests below really arrive at the same time.
        await asyncio.gather(*(connection.request("GET", "/health/live") for connection in opened))
        posts = zip(opened, requests, strict=True)
        return await asyncio.gather(
            *(connection.request("POST", path, body, headers) for connection, (path, body) in posts)
        )
    finally:
        for connection in opened:
            connection.close()


def counted(url: str, name: str, **labels: str) -> int:
    """A counter of the process that answers at `url`."""
    samples = (
        sample
        for family in text_string_to_metric_families(httpx.get(f"{url}/metrics").text)
        for sample in family.samples
    )
    return int(sum(it.value for it in samples if it.name == f"conversation_store_{name}" and it.labels == labels))


def appended(url: str) -> int:
    return counted(url, "events_appended_total", type="item.appended")


def item_of(answer: Answer) -> str:
    """The id of the one item that was added."""
    [item] = answer.json()["data"]
    return str(item["id"])


async def test_a_thousand_appends_at_once_by_two_processes_are_a_thousand_items_in_one_order(
    apis: list[str], log: Log, conversation_id: str
) -> None:
    before = [appended(url) for url in apis]

    answers = await at_once(apis, [append(conversation_id, f"{n}") for n in range(APPENDS)])

    assert Counter(answer.status for answer in answers) == {200: APPENDS}
    assert [appended(url) - count for url, count in zip(apis, before, strict=True)] == [APPENDS // 2] * 2
    assert log.versions(conversation_id) == list(range(1, APPENDS + 2))
    items = [event for event in log.events(conversation_id) if isinstance(event, ItemAppended)]
    order = [event.item_id for event in items]
    assert len(set(order)) == APPENDS
    assert [event.parent_id for event in items] == [None, *order[:-1]]
    assert [event.depth for event in items] == list(range(1, APPENDS + 1))
    told = {int(answer.headers["etag"].strip('"')): answer for answer in answers}
    assert [item_of(told[version]) for version in range(2, APPENDS + 2)] == order
    positions = [int(told[version].headers["x-position"]) for version in range(2, APPENDS + 2)]
    assert positions == sorted(positions)
    for url in apis:
        # A slow machine's views may need longer than a read waits: it is told to come again.
        with OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=5) as client:
            pages = client.conversations.items
            assert [item.id for item in pages.list(conversation_id, order="asc", limit=100)] == order
            assert [item.id for item in pages.list(conversation_id, order="desc", limit=100)] == order[::-1]


async def test_of_a_thousand_appends_at_once_with_one_if_match_exactly_one_is_appended(
    apis: list[str], log: Log, conversation_id: str
) -> None:
    events = log.count()
    before = [counted(url, "append_conflicts_total", reason="if_match") for url in apis]

    answers = await at_once(apis, [append(conversation_id, f"{n}") for n in range(APPENDS)], {"if-match": '"1"'})

    assert Counter(answer.status for answer in answers) == {200: 1, 412: APPENDS - 1}
    assert {answer.headers["etag"] for answer in answers} == {'"2"'}
    refused = [counted(url, "append_conflicts_total", reason="if_match") for url in apis]
    assert sorted(now - count for now, count in zip(refused, before, strict=True)) == [APPENDS // 2 - 1, APPENDS // 2]
    assert log.count() == events + 1
    [winner] = [answer for answer in answers if answer.status == 200]
    _, item = log.events(conversation_id)
    assert isinstance(item, ItemAppended)
    assert item.item_id == item_of(winner)
    assert from_stored(item.item)["content"] == str(answers.index(winner))


async def test_one_append_that_both_processes_get_at_once_again_and_again_is_appended_once(
    apis: list[str], log: Log, conversation_id: str
) -> None:
    answers = await at_once(apis, [append(conversation_id, "the same")] * 100, {"idempotency-key": conversation_id})

    assert {(answer.status, answer.body, answer.headers["etag"]) for answer in answers} == {
        (200, answers[0].body, '"2"')
    }
    assert Counter(answer.headers.get("idempotent-replayed") for answer in answers) == {None: 1, "true": 99}
    _, item = log.events(conversation_id)
    assert isinstance(item, ItemAppended)
    assert item.item_id == item_of(answers[0])
