"""Content that would make a document larger than MongoDB's 16 MB is shortened.

The log keeps the whole content.
"""

from collections.abc import Sequence
from typing import Any

import httpx
import msgspec
import pytest

from domain.commands import AppendItems, CancelReply, FailReply, InterruptReply, NewItem, RequestReply
from domain.events import InputItem
from infrastructure.ids import mint
from projections.views.catalog import MONGO_VIEWS
from projections.views.document_size import MAX_INPUT_BYTES, MAX_OUTPUT_BYTES, shortened, shortened_list
from scripts.stores import Stores
from scripts.verify import verify
from tests.projections.poison import nothing_parked
from tests.projections.test_rebuild import rebuild_of
from tests.projections.world import World
from tests.queries.conftest import open_api
from tests.queries.writer import SHOWN, Writer, body

CONTROL_CHARACTERS = "\x01" * 990_000
"""As JSON, 5.9 MB."""

TOOLS = msgspec.json.encode(
    {
        "instructions": "Be brief.",
        "tools": [{"type": "web_search", "filters": "x" * 40_000} for _ in range(100)],
        "metadata": {"a": "b"},
    }
)
NUMBERS = msgspec.json.encode({"tools": [{"type": "other", "numbers": [1e15] * 400_000}]})
"""A client sends `1e15`, four bytes. `1000000000000000.0` is stored, eighteen bytes."""


def stored(text: str) -> InputItem:
    return InputItem(item_id=mint("msg"), item=body(text))


def cut_off(text: str) -> InputItem:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    item = {"type": "message", "role": "assistant", "content": content, "status": "incomplete"}
    return InputItem(item_id=mint("msg"), item=msgspec.json.encode(item))


async def request(write: Writer, conversation_id: str, items: Sequence[InputItem], parameters: bytes = b"{}") -> str:
    command = RequestReply(
        response_id=mint("resp"), model="smol", parameters=parameters, input=tuple(items), shown=SHOWN
    )
    await write.execute(conversation_id, command)
    return command.response_id


async def get(api: httpx.AsyncClient, path: str) -> dict[str, Any]:
    answer = await api.get(path)
    assert answer.status_code == 200, answer.text[:500]
    read: dict[str, Any] = answer.json()
    return read


@pytest.mark.parametrize("end", ["failed", "cancelled", "interrupted"])
async def test_the_document_of_a_large_reply_that_ends_early_is_shortened(
    end: str, write: Writer, world: World
) -> None:
    conversation = await write.start("one")
    response_id = await request(write, conversation, [stored(CONTROL_CHARACTERS), stored("And? " * 300_000)], TOOLS)
    output = (cut_off(CONTROL_CHARACTERS),)
    match end:
        case "failed":
            await write.execute(conversation, FailReply(response_id=response_id, code="c", message="m", output=output))
        case "cancelled":
            await write.execute(conversation, CancelReply(response_id=response_id, output=output))
        case _:
            await write.execute(conversation, InterruptReply(response_id=response_id, code="c", output=output))
    await write.append(conversation, "later")
    await world.catch_up()
    assert await nothing_parked(world)
    assert await world.matches_log()
    async with open_api(world.settings) as api:
        response = await get(api, f"/v1/responses/{response_id}")
        [item] = response["output"]
        assert (item["id"], item["shortened_from"] > 5_900_000) == (output[0].item_id, True)
        assert item["content"][0]["text"].endswith("… [924464 characters left out]")
        assert (response["shortened_from"], len(response["tools"])) == (len(TOOLS), 100)
        assert (response["instructions"], response["metadata"]) == ("Be brief.", {"a": "b"})
        inputs = (await get(api, f"/v1/responses/{response_id}/input_items"))["data"]
        assert [len(item["content"][0]["text"]) for item in inputs] == [1_500_000, 990_000], (
            "input that fits was shortened"
        )
        streamed = await api.get(f"/v1/responses/{response_id}?stream=true")
        assert streamed.text.count("\\u0001") >= 990_000, (
            "a part of the text is missing in the stream, which is made from the log"
        )
        assert (await get(api, f"/v1/conversations/{conversation}/items"))["data"][0]["content"][0]["text"] == "later"
    assert (await verify(Stores(world.settings, world.pool, world.reader, world.database, world.redis), _ignore)).ok
    rebuilt = await rebuild_of(world).run()
    assert [comparison.different for comparison in rebuilt.compared] == [0] * len(MONGO_VIEWS)


@pytest.mark.parametrize(
    "parameters", [b"{}", NUMBERS, msgspec.json.encode({"instructions": "\x01" * 1_000_000, "tools": []})]
)
async def test_only_the_large_items_of_too_much_input_are_shortened(
    parameters: bytes, write: Writer, world: World
) -> None:
    conversation = await write.start("one")
    items = [stored(CONTROL_CHARACTERS), stored("small"), stored("é" * 3_000_000), stored("last")]
    response_id = await request(write, conversation, items, parameters)
    await write.fail_reply(conversation, response_id)
    await world.catch_up()
    assert await nothing_parked(world)
    async with open_api(world.settings) as api:
        inputs = (await get(api, f"/v1/responses/{response_id}/input_items?order=asc"))["data"]
        assert [item["id"] for item in inputs] == [item.item_id for item in items]
        assert [("shortened_from" in item) for item in inputs] == [True, False, True, False]
        assert [item["content"][0]["text"] for item in inputs][1::2] == ["small", "last"]
        await get(api, f"/v1/responses/{response_id}")


async def test_an_item_that_is_too_large_for_a_document_is_shortened(write: Writer, world: World) -> None:
    conversation = await write.start("one")
    large = NewItem(item_id=mint("msg"), item=body("\x01" * 4_000_000))
    await write.execute(conversation, AppendItems(items=(large,), author="someone"))
    await write.append(conversation, "later")
    await world.catch_up()
    assert await nothing_parked(world)
    assert await world.documents() == await world.expected_documents()
    async with open_api(world.settings) as api:
        item = await get(api, f"/v1/conversations/{conversation}/items/{large.item_id}")
        assert item["shortened_from"] > 24_000_000
        assert item["content"][0]["text"].endswith("characters left out]")
        page = await get(api, f"/v1/conversations/{conversation}/items")
        assert len(page["data"]) == 3


async def test_a_conversation_with_the_largest_settings_is_kept_whole(write: Writer, world: World) -> None:
    wide = "\U0001f600"
    fields: dict[str, Any] = {
        "instructions": wide * 262_144,
        "title": wide * 512,
        "metadata": {f"{number:02}{wide * 62}": wide * 512 for number in range(16)},
    }
    conversation = await write.start("one", **fields)
    await world.catch_up()
    assert await nothing_parked(world)
    async with open_api(world.settings) as api:
        read = await get(api, f"/v1/conversations/{conversation}")
    assert {name: read[name] for name in fields} == fields


def test_what_fits_is_not_changed() -> None:
    text = msgspec.json.encode({"id": "msg_1", "content": "x" * 1_000})
    assert shortened(text, len(text)) is text
    assert shortened_list([text, text], 2 * len(text) + 32) == [text, text]


@pytest.mark.parametrize(
    "value",
    [
        {"id": "msg_1", "type": "message", "role": "user", "content": [{"type": "t", "text": "\x01" * 1_000_000}]},
        {"id": "fc_1", "type": "function_call", "arguments": '"' * 3_000_000},
        {"id": "x_1", "type": "x", "numbers": [1.5] * 1_000_000},
        {"id": "x_1", "type": "x", **{f"name {number}": number for number in range(200_000)}},
        {"id": "x_1", "type": "x", "y" * 2_000_000: 1},
        {"id": "x" * 2_000_000, "type": "x"},
        {"id": "x_1", "type": "x", "deep": [[[[["z" * 300] * 30] * 30] * 10] * 2]},
    ],
)
@pytest.mark.parametrize("max_bytes", [1_000_000, 20_000, 2_000])
def test_a_large_object_is_shortened_and_keeps_its_type(value: dict[str, Any], max_bytes: int) -> None:
    text = msgspec.json.encode(value)
    short = shortened(text, max_bytes)
    assert len(short) <= max_bytes
    read = msgspec.json.decode(short)
    assert read["shortened_from"] == len(text)
    assert read["type"] == value["type"]
    assert shortened(text, max_bytes) == short


@pytest.mark.parametrize(
    ("count", "max_bytes"), [(1, MAX_INPUT_BYTES), (7, MAX_OUTPUT_BYTES), (200, MAX_INPUT_BYTES), (15_000, 1_000_000)]
)
def test_a_list_is_never_larger_than_its_maximum(count: int, max_bytes: int) -> None:
    item = {"id": "msg_1", "type": "message", "role": "user", "content": "x" * (20_000_000 // count)}
    texts = [msgspec.json.encode(item)] * count
    short = shortened_list(texts, max_bytes)
    assert sum(len(text) + 16 for text in short) <= max_bytes
    if count == 15_000:
        assert len(short) < count
        assert msgspec.json.decode(short[-1])["shortened_from"] == len(texts[0]) * (count - len(short) + 1)
    else:
        assert len(short) == count


def _ignore(_done: int, _total: int) -> None:
    pass
