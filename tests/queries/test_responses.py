"""GET of a response and of its input items. The official SDK's type parses each Response."""

import json
import re
from typing import Any

import httpx
import pytest
from openai.types.responses import Response

from domain.commands import DeleteReply, DescribeReply
from domain.errors import ResponseNotFound
from infrastructure.access.principal import SCOPES, Principal
from infrastructure.event_log.reader import EventReader
from infrastructure.settings import Settings
from infrastructure.stores.postgres import make_pool
from replies.record import read_record
from tests.queries.manual_projector import ManualProjector
from tests.queries.writer import Writer


async def response_of(api: httpx.AsyncClient, response_id: str) -> Response:
    answer = await api.get(f"/v1/responses/{response_id}")
    assert answer.status_code == 200, answer.text
    return Response.model_validate_json(answer.content)


async def test_a_response_is_in_progress_until_its_reply_completes(
    api: httpx.AsyncClient, write: Writer, live: ManualProjector
) -> None:
    conversation_id = await write.start("hello")
    response_id, input_items = await write.request_reply(
        conversation_id, "two plus two?", temperature=0.5, metadata={"a": "b"}
    )

    running = await response_of(api, response_id)
    output = await write.complete_reply(conversation_id, response_id, input_items, "four", "really")
    done = await response_of(api, response_id)

    assert (running.status, running.model, running.output, running.usage) == ("in_progress", "smol", [], None)
    assert (done.id, done.status, done.model) == (response_id, "completed", "smol-1")
    assert [item.id for item in done.output] == [item.item_id for item in output]
    assert done.output_text == "fourreally"
    assert done.conversation is not None
    assert done.conversation.id == conversation_id
    assert (done.temperature, done.metadata) == (0.5, {"a": "b"})
    assert done.usage is not None
    assert (done.usage.total_tokens, done.usage.input_tokens_details.cached_tokens) == (12, 2)
    assert done.completed_at is not None
    assert done.completed_at >= done.created_at


async def test_a_response_has_its_newest_metadata(
    api: httpx.AsyncClient, write: Writer, live: ManualProjector, settings: Settings
) -> None:
    conversation_id = await write.start()
    response_id, input_items = await write.request_reply(conversation_id, "hello", metadata={"a": "1"})
    pool = make_pool(settings.postgres_url)
    reader = EventReader(pool).of(Principal("default", "someone", SCOPES))

    async def described(metadata: dict[str, str]) -> Response:
        change = await write.execute(conversation_id, DescribeReply(response_id=response_id, metadata=metadata))
        record = await read_record(reader, conversation_id, response_id)
        assert (record.last.version, record.last.position) == (change.version, change.position)
        response = await response_of(api, response_id)
        assert Response.model_validate_json(record.response()) == response
        assert response.metadata == metadata
        return response

    async with pool:
        assert (await described({"a": "2", "$b.c": ""})).status == "in_progress"
        await write.complete_reply(conversation_id, response_id, input_items, "hi")
        assert (await described({"a": "3"})).output_text == "hi"
        assert (await described({})).output_text == "hi"
        streamed = await api.get(f"/v1/responses/{response_id}", params={"stream": "true"})
        first, *_, last = [json.loads(data) for data in re.findall(r"(?m)^data: (.+)$", streamed.text)]
        assert (first["response"]["metadata"], last["response"]["metadata"]) == ({"a": "1"}, {})
        await write.execute(conversation_id, DeleteReply(response_id=response_id))
        with pytest.raises(ResponseNotFound):
            await read_record(reader, conversation_id, response_id)


async def test_a_failed_response_has_its_error(api: httpx.AsyncClient, write: Writer, live: ManualProjector) -> None:
    conversation_id = await write.start()
    response_id, _ = await write.request_reply(conversation_id, "hello")
    await write.fail_reply(conversation_id, response_id)

    failed = await response_of(api, response_id)

    assert failed.status == "failed"
    assert failed.error is not None
    assert (failed.error.code, failed.error.type, failed.error.message) == (
        "server_error",
        "model_error",
        "It did not answer.",
    )


async def test_a_response_that_reached_its_maximum_length_is_incomplete(
    api: httpx.AsyncClient, write: Writer, live: ManualProjector
) -> None:
    conversation_id = await write.start()
    response_id, input_items = await write.request_reply(conversation_id, "hello", max_output_tokens=5)
    await write.complete_reply(conversation_id, response_id, input_items, "well", finish="length")

    cut = await response_of(api, response_id)

    assert (cut.status, cut.max_output_tokens) == ("incomplete", 5)
    assert cut.incomplete_details is not None
    assert cut.incomplete_details.reason == "max_output_tokens"


async def test_responses_of_other_tenants_and_of_deleted_conversations_are_not_found(
    api: httpx.AsyncClient, write: Writer, live: ManualProjector
) -> None:
    others = write.for_tenant("others")
    foreign, _ = await others.request_reply(await others.start(), "a")
    conversation_id = await write.start()
    orphan, _ = await write.request_reply(conversation_id, "a")
    await write.delete(conversation_id)

    for response_id in (foreign, orphan):
        for path in ("", "/input_items"):
            answer = await api.get(f"/v1/responses/{response_id}{path}")
            assert answer.status_code == 404
            assert response_id in answer.json()["error"]["message"]


async def test_input_items_are_paged_like_items(api: httpx.AsyncClient, write: Writer, live: ManualProjector) -> None:
    conversation_id = await write.start()
    response_id, input_items = await write.request_reply(conversation_id, *map(str, range(5)))
    ids = [item.item_id for item in input_items]

    async def page(**query: Any) -> tuple[list[str], bool]:
        answer = await api.get(f"/v1/responses/{response_id}/input_items", params=query)
        body = answer.json()
        assert body["first_id"] == body["data"][0]["id"]
        return [item["id"] for item in body["data"]], body["has_more"]

    assert await page() == (ids[::-1], False)
    assert await page(order="asc", limit=2) == (ids[:2], True)
    assert await page(order="asc", limit=2, after=ids[1]) == (ids[2:4], True)
    assert await page(order="asc", limit=2, after=ids[3]) == (ids[4:], False)
    assert await page(limit=3, before=ids[0]) == ([ids[3], ids[2], ids[1]], True)
    assert await page(after=ids[4], before=ids[1], limit=5) == ([ids[3], ids[2]], False)
    unknown = await api.get(f"/v1/responses/{response_id}/input_items", params={"after": "msg_" + "0" * 32})
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (400, "after")
