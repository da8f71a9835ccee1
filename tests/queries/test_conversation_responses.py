"""The list of a conversation's responses, without deleted ones."""

from collections.abc import Sequence
from typing import Any

import httpx

from domain.commands import CancelReply, DeleteReply, InterruptReply
from domain.events import Fork, InputItem
from infrastructure.http.connections import Connections, Limits
from infrastructure.ids import mint
from infrastructure.settings import Settings
from projections.views.catalog import INDEXES
from queries.paging import MAX_PAGE_BYTES
from tests.queries.conftest import open_api
from tests.queries.manual_projector import ManualProjector
from tests.queries.writer import Writer, body


async def responses_of(api: httpx.AsyncClient, conversation_id: str, **query: Any) -> dict[str, Any]:
    answer = await api.get(f"/v1/conversations/{conversation_id}/responses", params=query)
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    assert len(answer.content) <= MAX_PAGE_BYTES + 1000
    assert page["object"] == "list"
    assert [page["first_id"], page["last_id"]] == ([ids_of(page)[0], ids_of(page)[-1]] if page["data"] else [None] * 2)
    return page


def ids_of(page: dict[str, Any]) -> list[str]:
    return [entry["id"] for entry in page["data"]]


def texts_of(items: Sequence[dict[str, Any]]) -> list[str]:
    return [item["content"][0]["text"] for item in items]


async def test_replies_that_run_or_have_ended_are_listed_with_their_input(
    api: httpx.AsyncClient, write: Writer, live: ManualProjector
) -> None:
    conversation_id = await write.start("hello")
    partial = (InputItem(item_id=mint("msg"), item=body("par", "assistant")),)
    name_of: dict[str, str] = {}

    async def ask(status: str) -> tuple[str, tuple[InputItem, ...]]:
        response_id, input_items = await write.request_reply(conversation_id, status, "please", temperature=0.5)
        name_of[response_id] = status
        return response_id, input_items

    response_id, input_items = await ask("completed")
    output = await write.complete_reply(conversation_id, response_id, input_items, "four", "really")
    response_id, _ = await ask("failed")
    await write.fail_reply(conversation_id, response_id)
    response_id, _ = await ask("cancelled")
    await write.execute(conversation_id, CancelReply(response_id=response_id, output=partial))
    response_id, _ = await ask("interrupted")
    await write.execute(conversation_id, InterruptReply(response_id=response_id, code="client_closed", output=partial))
    response_id, input_items = await ask("incomplete")
    await write.complete_reply(conversation_id, response_id, input_items, "well", finish="length")
    response_id, input_items = await ask("deleted")
    await write.complete_reply(conversation_id, response_id, input_items, "gone")
    deleted = await write.execute(conversation_id, DeleteReply(response_id=response_id))
    running, _ = await ask("in_progress")

    page = await responses_of(api, conversation_id, order="asc")

    entries = page["data"]
    assert [name_of[entry["id"]] for entry in entries] == [
        "completed",
        "failed",
        "cancelled",
        "interrupted",
        "incomplete",
        "in_progress",
    ]
    statuses = ["completed", "failed", "cancelled", "incomplete", "incomplete", "in_progress"]
    assert [entry["status"] for entry in entries] == statuses
    assert [texts_of(entry["input"]) for entry in entries] == [[name_of[entry["id"]], "please"] for entry in entries]
    assert [texts_of(entry["output"]) for entry in entries] == [["four", "really"], [], ["par"], ["par"], ["well"], []]
    assert [item["id"] for item in entries[0]["output"]] == [item.item_id for item in output]
    assert not page["has_more"]
    for entry in entries:
        alone = (await api.get(f"/v1/responses/{entry['id']}")).json()
        assert {name: value for name, value in entry.items() if name != "input"} == alone
        assert entry["temperature"] == 0.5
    assert ids_of(page)[-1] == running
    assert ids_of(await responses_of(api, conversation_id)) == ids_of(page)[::-1]
    answer = await api.get(f"/v1/conversations/{conversation_id}/responses")
    assert answer.headers["etag"] == f'"{deleted.version + 1}"'


async def test_pages_follow_the_order_of_the_requests(
    api: httpx.AsyncClient, write: Writer, live: ManualProjector
) -> None:
    conversation_id, other = await write.start(), await write.start()
    ids = []
    for number in range(5):
        response_id, input_items = await write.request_reply(conversation_id, str(number))
        await write.complete_reply(conversation_id, response_id, input_items, "!")
        ids.append(response_id)
        await write.reply(other)
    await write.execute(conversation_id, DeleteReply(response_id=ids[2]))
    left = [response_id for response_id in ids if response_id != ids[2]]

    async def page(**query: Any) -> tuple[list[str], bool]:
        answered = await responses_of(api, conversation_id, **query)
        return ids_of(answered), answered["has_more"]

    assert await page() == (left[::-1], False)
    assert await page(limit=4) == (left[::-1], False)
    assert await page(order="asc", limit=2) == (left[:2], True)
    assert await page(order="asc", limit=2, after=ids[1]) == (ids[3:], False)
    assert await page(order="asc", limit=1, after=ids[2]) == ([ids[3]], True)  # deleted, but a valid cursor
    assert await page(limit=2, before=ids[0]) == ([ids[3], ids[1]], True)
    assert await page(after=ids[4], before=ids[1]) == ([ids[3]], False)
    for cursor in (mint("resp"), conversation_id):
        unknown = await api.get(f"/v1/conversations/{conversation_id}/responses", params={"after": cursor})
        assert (unknown.status_code, unknown.json()["error"]["param"]) == (400, "after")
    foreign = (await responses_of(api, other))["first_id"]
    unknown = await api.get(f"/v1/conversations/{conversation_id}/responses", params={"before": foreign})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (400, "invalid_cursor")


async def test_a_fork_and_its_origin_each_list_only_their_own_responses(
    api: httpx.AsyncClient, write: Writer, live: ManualProjector
) -> None:
    conversation_id = await write.start("hello")
    first, input_items = await write.request_reply(conversation_id, "one")
    [item] = await write.complete_reply(conversation_id, first, input_items, "!")
    origin = Fork(conversation_id=conversation_id, item_id=item.item_id, version=5, depth=3)
    fork = await write.start(forked_from=origin, family=conversation_id, listed=False)
    in_fork, _ = await write.request_reply(fork, "instead")
    assert ids_of(await responses_of(api, conversation_id)) == [first]
    assert ids_of(await responses_of(api, fork)) == [in_fork]


async def test_a_conversation_without_replies_has_an_empty_list(
    api: httpx.AsyncClient, write: Writer, live: ManualProjector
) -> None:
    conversation_id = await write.start("hello")
    assert (await responses_of(api, conversation_id))["data"] == []
    await write.reply(conversation_id)
    await write.delete(conversation_id)
    foreign = await write.for_tenant("others").start()
    for unknown in (conversation_id, foreign, mint("conv")):
        answer = await api.get(f"/v1/conversations/{unknown}/responses")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


async def test_large_responses_come_in_pages_that_end_early(
    settings: Settings, write: Writer, projector: ManualProjector
) -> None:
    conversation_id = await write.start()
    ids = []
    for number in range(7):
        size = 10 if number == 3 else 900_000
        response_id, input_items = await write.request_reply(conversation_id, str(number) * size)
        await write.complete_reply(conversation_id, response_id, input_items, "!" * size, "?" * 20_000)
        ids.append(response_id)
    await projector.catch_up()

    connections = Connections(Limits(large_answers=1, large_answer_wait_seconds=0.1))
    async with open_api(settings, connections) as api:
        pages = [await responses_of(api, conversation_id, order="asc")]
        while pages[-1]["has_more"]:
            pages.append(await responses_of(api, conversation_id, order="asc", after=pages[-1]["last_id"]))
        small = await responses_of(api, conversation_id, order="asc", after=ids[2], limit=1)
        limited = await responses_of(api, conversation_id, order="asc", limit=3)
        async with connections.large_answer("default"):
            refused = await api.get(f"/v1/conversations/{conversation_id}/responses")

    assert [entry for page in pages for entry in ids_of(page)] == ids
    assert len(pages) == 2
    assert texts_of(pages[0]["data"][0]["output"]) == ["!" * 900_000, "?" * 20_000]
    assert (ids_of(small), small["has_more"]) == ([ids[3]], True)
    assert (ids_of(limited), limited["has_more"]) == (ids[:3], True)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "too_many_large_answers")


async def test_many_small_outputs_that_are_large_together_are_listed_in_full(
    api: httpx.AsyncClient, write: Writer, projector: ManualProjector
) -> None:
    conversation_id = await write.start()
    response_id, input_items = await write.request_reply(conversation_id, "?")
    await write.complete_reply(conversation_id, response_id, input_items, *("x" * 20_000 for _ in range(40)))
    await write.reply(conversation_id)
    await projector.catch_up()

    page = await responses_of(api, conversation_id, order="asc")

    assert [len(entry["output"]) for entry in page["data"]] == [40, 1]


async def test_a_page_is_read_by_an_index_without_sorting(
    api: httpx.AsyncClient, write: Writer, projector: ManualProjector
) -> None:
    conversation_id = await write.start()
    await write.reply(conversation_id)
    await projector.catch_up()
    where = {"tenant": "default", "conversation_id": conversation_id, "deleted": False, "version": {"$lt": 9}}
    plan = await projector.views["responses"].find(where).sort("version", -1).explain()
    stages = str(plan["queryPlanner"]["winningPlan"])
    index, *_ = INDEXES["responses"]
    assert "_".join(f"{field}_{direction}" for field, direction in index) in stages
    assert "SORT" not in stages.replace("SORT_KEY", "")
