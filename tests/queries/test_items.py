"""Items of a conversation: pages, cursors, retracted items, and items as of a version."""

import time
from typing import Any

import httpx
import msgspec
import pytest
from openai import AsyncOpenAI
from openai.types.conversations import ConversationItemList

from domain.commands import AppendItems, NewItem
from infrastructure.ids import mint
from infrastructure.settings import Settings
from tests.queries.conftest import served
from tests.queries.manual_projector import ManualProjector
from tests.queries.writer import Writer


async def page_of(api: httpx.AsyncClient, conversation_id: str, **query: Any) -> dict[str, Any]:
    answer = await api.get(f"/v1/conversations/{conversation_id}/items", params=query)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    if body["data"]:  # an empty page has null ids, which the SDK's type does not allow
        assert ConversationItemList.model_validate(body).object == "list"
    return body


def texts(page: dict[str, Any]) -> list[str]:
    return [item["content"][0]["text"] for item in page["data"]]


def ids(page: dict[str, Any]) -> list[str]:
    return [item["id"] for item in page["data"]]


async def test_items_are_newest_first_with_the_conversations_version_as_etag(
    api: httpx.AsyncClient, write: Writer, live: ManualProjector
) -> None:
    conversation_id = await write.start("one", "two")

    answer = await api.get(f"/v1/conversations/{conversation_id}/items")

    assert answer.headers["etag"] == '"3"'
    assert texts(answer.json()) == ["two", "one"]


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_pages_skip_retracted_items(
    api: httpx.AsyncClient, write: Writer, live: ManualProjector, order: str
) -> None:
    conversation_id = await write.start()
    appended = await write.append(conversation_id, *(str(number) for number in range(10)))
    for number in (0, 4, 5, 9):
        await write.retract(conversation_id, appended[number])
    kept = [item for number, item in enumerate(appended) if number not in (0, 4, 5, 9)]

    pages = [await page_of(api, conversation_id, order=order, limit=2)]
    while pages[-1]["has_more"]:
        pages.append(await page_of(api, conversation_id, order=order, limit=2, after=pages[-1]["last_id"]))

    assert [item for page in pages for item in ids(page)] == (kept if order == "asc" else kept[::-1])
    assert [len(page["data"]) for page in pages] == [2, 2, 2]
    assert [page["first_id"] for page in pages] == [ids(page)[0] for page in pages]


async def test_a_retracted_item_is_a_valid_cursor(api: httpx.AsyncClient, write: Writer, live: ManualProjector) -> None:
    conversation_id = await write.start()
    appended = await write.append(conversation_id, "a", "b", "c")
    await write.retract(conversation_id, appended[1])

    assert texts(await page_of(api, conversation_id, order="asc", after=appended[1])) == ["c"]
    assert texts(await page_of(api, conversation_id, order="asc", before=appended[1])) == ["a"]


async def test_a_cursor_that_is_unknown_or_of_another_conversation_is_refused(
    api: httpx.AsyncClient, write: Writer, live: ManualProjector
) -> None:
    conversation_id = await write.start("a")
    other = await write.start()
    [foreign] = await write.append(other, "b")

    for param in ("after", "before"):
        for cursor in (foreign, mint("msg")):
            answer = await api.get(f"/v1/conversations/{conversation_id}/items", params={param: cursor})
            assert answer.status_code == 400
            assert answer.json()["error"]["param"] == param


async def test_the_parameter_as_of_lists_the_items_of_a_version(
    api: httpx.AsyncClient, write: Writer, live: ManualProjector
) -> None:
    conversation_id = await write.start("a", "b")  # versions 1 to 3
    [third] = await write.append(conversation_id, "c")  # 4
    await write.retract(conversation_id, third)  # 5
    await write.append(conversation_id, "d")  # 6

    by_version = {
        version: texts(await page_of(api, conversation_id, as_of=version, order="asc")) for version in range(1, 7)
    }

    assert by_version == {1: [], 2: ["a"], 3: ["a", "b"], 4: ["a", "b", "c"], 5: ["a", "b"], 6: ["a", "b", "d"]}
    answer = await api.get(f"/v1/conversations/{conversation_id}/items", params={"as_of": 7})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "as_of")


async def test_an_item_is_readable_until_it_is_retracted(
    api: httpx.AsyncClient, write: Writer, live: ManualProjector
) -> None:
    conversation_id = await write.start()
    [item_id] = await write.append(conversation_id, "hello")
    other = await write.start()

    answer = await api.get(f"/v1/conversations/{conversation_id}/items/{item_id}", params={"include[]": ["a", "b"]})
    body = answer.json()
    assert abs(body.pop("created_at") - time.time()) < 60
    assert body == {
        "id": item_id,
        "type": "message",
        "role": "user",
        "content": [{"type": "input_text", "text": "hello"}],
        "status": "completed",
        "author": "someone",
    }
    assert (await api.get(f"/v1/conversations/{other}/items/{item_id}")).status_code == 404
    await write.retract(conversation_id, item_id)
    answer = await api.get(f"/v1/conversations/{conversation_id}/items/{item_id}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


async def test_the_official_client_pages_through_all_items(
    settings: Settings, write: Writer, live: ManualProjector
) -> None:
    conversation_id = await write.start(*map(str, range(45)))

    async with served(settings) as url, AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
        items = [item async for item in client.conversations.items.list(conversation_id, order="asc")]
        newest = await client.conversations.items.list(
            conversation_id, limit=3, include=["reasoning.encrypted_content"]
        )
        one = await client.conversations.items.retrieve(items[7].id or "", conversation_id=conversation_id)

    assert len({item.id for item in items}) == 45
    assert [item.id for item in newest.data] == [item.id for item in items[:-4:-1]]
    assert one == items[7]


async def test_a_head_request_is_answered_with_the_etag(
    api: httpx.AsyncClient, write: Writer, live: ManualProjector
) -> None:
    conversation_id = await write.start("a")

    for path in ("", "/items", "/events"):
        answer = await api.head(f"/v1/conversations/{conversation_id}{path}")
        assert (answer.status_code, answer.headers["etag"]) == (200, '"2"')


async def test_an_item_says_when_by_whom_and_by_which_model_it_was_made(
    api: httpx.AsyncClient, write: Writer, live: ManualProjector
) -> None:
    conversation_id = await write.start()
    response_id, questions = await write.request_reply(conversation_id, "?")
    await write.complete_reply(conversation_id, response_id, questions, "!", model="smol-1")
    own = {"type": "agent_message", "author": "agent", "content": []}
    item = NewItem(item_id=mint("item"), item=msgspec.json.encode(own))
    await write.execute(conversation_id, AppendItems(items=(item,), author="someone"))

    listed = await api.get(f"/v1/conversations/{conversation_id}/items", params={"order": "asc"})
    question, answer, message = listed.json()["data"]

    assert abs(question["created_at"] - time.time()) < 60
    assert "model" not in question
    assert answer["model"] == "smol-1"
    assert "siblings" not in answer
    assert message == {**own, "id": item.item_id}, "the store's `author` does not replace that of the item"
