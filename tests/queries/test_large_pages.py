"""A page that would have more than 8 MB ends early with `has_more`."""

from typing import Any

import httpx
import pytest

from infrastructure.http.connections import Connections, Limits
from infrastructure.settings import Settings
from queries.paging import MAX_PAGE_BYTES, Page
from tests.queries.conftest import open_api
from tests.queries.manual_projector import ManualProjector
from tests.queries.writer import Writer

ITEMS = 14
ITEM_BYTES = 900_000


async def start_large(write: Writer, projector: ManualProjector) -> tuple[str, list[str]]:
    """Every fourth item is small, the others have ITEM_BYTES bytes. Returns the ids of the conversation and of the items."""
    conversation_id = await write.start()
    ids: list[str] = []
    for number in range(ITEMS):
        ids += await write.append(conversation_id, str(number % 10) * (10 if number % 4 == 3 else ITEM_BYTES))
    await projector.catch_up()
    return conversation_id, ids


async def page_at(api: httpx.AsyncClient, path: str, **query: Any) -> dict[str, Any]:
    answer = await api.get(path, params={"limit": 100, **query})
    assert answer.status_code == 200, answer.text[:500]
    page: dict[str, Any] = answer.json()
    assert len(answer.content) <= MAX_PAGE_BYTES + 1000
    assert page["data"]
    return page


def ids_of(page: dict[str, Any]) -> list[str]:
    return [entry["id"] for entry in page["data"]]


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_large_items_come_in_pages_that_end_early(
    api: httpx.AsyncClient, write: Writer, projector: ManualProjector, order: str
) -> None:
    conversation_id, ids = await start_large(write, projector)
    path = f"/v1/conversations/{conversation_id}/items"
    expected = ids if order == "asc" else ids[::-1]

    pages = [await page_at(api, path, order=order)]
    while pages[-1]["has_more"]:
        pages.append(await page_at(api, path, order=order, after=pages[-1]["last_id"]))

    assert [entry for page in pages for entry in ids_of(page)] == expected
    assert [(page["first_id"], page["last_id"]) for page in pages] == [
        (ids_of(page)[0], ids_of(page)[-1]) for page in pages
    ]
    assert len(pages) == 2
    assert len(pages[0]["data"]) >= 10  # as many items as fit


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_a_page_before_a_cursor_has_the_items_nearest_to_the_cursor(
    api: httpx.AsyncClient, write: Writer, projector: ManualProjector, order: str
) -> None:
    conversation_id, ids = await start_large(write, projector)
    path = f"/v1/conversations/{conversation_id}/items"
    expected = (ids if order == "asc" else ids[::-1])[:-1]
    last = ids[-1] if order == "asc" else ids[0]

    page = await page_at(api, path, order=order, before=last)
    assert page["has_more"]
    assert ids_of(page) == expected[-len(page["data"]) :]
    before = await page_at(api, path, order=order, before=page["first_id"])
    assert (ids_of(before) + ids_of(page), before["has_more"]) == (expected, False)


async def test_a_page_of_a_few_large_items_is_complete(
    api: httpx.AsyncClient, write: Writer, projector: ManualProjector
) -> None:
    conversation_id, ids = await start_large(write, projector)
    path = f"/v1/conversations/{conversation_id}/items"
    page = await page_at(api, path, order="asc", limit=3)
    assert (ids_of(page), page["has_more"]) == (ids[:3], True)
    page = await page_at(api, path, order="asc", after=ids[-3], limit=2)
    assert (ids_of(page), page["has_more"]) == (ids[-2:], False)


async def test_conversations_with_long_instructions_come_in_pages_that_end_early(
    api: httpx.AsyncClient, write: Writer, projector: ManualProjector
) -> None:
    long = "\x01" * 262_144  # six times as long in JSON
    started = [await write.start(instructions=long if number % 2 else "short") for number in range(14)]
    await projector.catch_up()

    pages = [await page_at(api, "/v1/conversations")]
    while pages[-1]["has_more"]:
        pages.append(await page_at(api, "/v1/conversations", after=pages[-1]["last_id"]))

    assert [entry for page in pages for entry in ids_of(page)] == started[::-1]
    assert len(pages) == 2
    answer = await api.get(f"/v1/conversations/{started[1]}")
    assert answer.json()["instructions"] == long


async def test_large_events_come_in_pages_that_end_early(
    api: httpx.AsyncClient, write: Writer, projector: ManualProjector
) -> None:
    conversation_id, _ = await start_large(write, projector)
    path = f"/v1/conversations/{conversation_id}/events"

    pages = [await page_at(api, path)]
    while pages[-1]["has_more"]:
        pages.append(await page_at(api, path, after=pages[-1]["last_id"]))

    versions = [event["version"] for page in pages for event in page["data"]]
    assert versions == list(range(1, ITEMS + 2))
    assert len(pages) == 2


async def test_large_input_items_come_in_pages_that_end_early(
    api: httpx.AsyncClient, write: Writer, projector: ManualProjector
) -> None:
    conversation_id = await write.start()
    response_id, input_items = await write.request_reply(conversation_id, *(str(n) * 960_000 for n in range(9)))
    await projector.catch_up()
    path = f"/v1/responses/{response_id}/input_items"

    pages = [await page_at(api, path, order="asc")]
    while pages[-1]["has_more"]:
        pages.append(await page_at(api, path, order="asc", after=pages[-1]["last_id"]))

    assert [entry for page in pages for entry in ids_of(page)] == [item.item_id for item in input_items]
    assert len(pages) == 2


async def test_a_large_page_is_compressed_for_clients_that_accept_gzip(
    api: httpx.AsyncClient, write: Writer, projector: ManualProjector
) -> None:
    conversation_id, ids = await start_large(write, projector)
    path = f"/v1/conversations/{conversation_id}/items"
    plain = await api.get(path, headers={"Accept-Encoding": "identity"})
    compressed = await api.get(path, headers={"Accept-Encoding": "gzip"})
    assert (compressed.headers["content-encoding"], compressed.json()) == ("gzip", plain.json())
    assert int(compressed.headers["content-length"]) < len(plain.content) / 10
    assert compressed.headers["etag"] == plain.headers["etag"]
    assert (await api.get(path, headers={"If-None-Match": compressed.headers["etag"]})).status_code == 304
    small = await api.get(path, params={"limit": 1, "order": "asc", "after": ids[2]})
    assert "content-encoding" not in small.headers


async def test_a_large_page_is_refused_while_another_one_is_sent(
    settings: Settings, write: Writer, projector: ManualProjector
) -> None:
    conversation_id, _ = await start_large(write, projector)
    small = await write.start("hello")
    await projector.catch_up()
    limits = Limits(large_answers=1, large_answer_wait_seconds=0.1)
    connections = Connections(limits)
    async with open_api(settings, connections) as api, connections.large_answer("default"):
        for path in ("items", "events"):
            answer = await api.get(f"/v1/conversations/{conversation_id}/{path}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "too_many_large_answers")
            assert answer.headers["retry-after"]
            assert (await api.get(f"/v1/conversations/{small}/{path}")).status_code == 200


def test_a_page_has_at_least_one_entry() -> None:
    page = Page(limit=10, max_bytes=10)
    assert page.add("a", b"x" * 20)
    assert not page.add("b", b"x")
    assert (page.ids, page.has_more) == (["a"], True)
