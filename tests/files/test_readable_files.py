"""Who may read a file that an item names."""

from typing import Any

import pytest

from infrastructure.contents.file_store import PAGE_ITEMS
from infrastructure.ids import uuid_of
from infrastructure.settings import Settings
from tests.access.apis_as import Apis
from tests.access.made_keys import execute
from tests.commands.api_client import error_of
from tests.files.requests import ANN, BOB, STRANGER, items, upload
from tests.files.samples import data_uri, png, with_image
from tests.log import Log
from tests.scripted_provider import ScriptedProvider

pytestmark = pytest.mark.parametrize("model_api", ["chat"])

NAMED_BY_OTHERS = """
    INSERT INTO content_refs (tenant_id, originator_id, row_key, item_id, file_id, sha256, size, label, subject)
    SELECT tenant_id, gen_random_uuid(), 'msg_ff' || n, 'msg_ff' || n, file_id, sha256, size, label, 'eve'
    FROM content_refs CROSS JOIN generate_series(1, %s) AS n WHERE tenant_id = 'acme' AND file_id = %s
"""


def file_of(item: dict[str, Any]) -> str:
    return str(item["content"][1]["file_id"])


async def shared_image(apis: Apis, image: bytes) -> tuple[str, dict[str, Any]]:
    """Ann shares a conversation with Bob. Returns the path and the item of the conversation."""
    path = f"/v1/conversations/{await apis.create(ANN)}"
    added = await apis.post(ANN, f"{path}/items", {"items": [with_image(image_url=data_uri(image))]})
    await apis.post(ANN, f"{path}/shares", {"with": {"subject": "bob"}, "role": "reader"})
    item: dict[str, Any] = added.json()["data"][0]
    return path, item


async def test_a_shared_image_is_readable_although_many_others_have_it(settings: Settings, apis: Apis) -> None:
    image = png(1_000)
    _, item = await shared_image(apis, image)
    execute(settings.postgres_url, NAMED_BY_OTHERS, 2 * PAGE_ITEMS, uuid_of(file_of(item)))
    assert (await apis.get(BOB, f"/v1/files/{file_of(item)}/content")).content == image
    assert (await apis.post(BOB, "/v1/responses", {"input": [item]})).status_code == 200
    assert (await apis.get(STRANGER, f"/v1/files/{file_of(item)}/content")).status_code == 404


async def test_a_fork_makes_an_image_of_many_conversations_readable(settings: Settings, apis: Apis) -> None:
    image = png(1_000)
    path, item = await shared_image(apis, image)
    fork = (await apis.post(BOB, f"{path}/fork")).json()["id"]
    await apis.request(ANN, "DELETE", f"{path}/shares?subject=bob")
    execute(settings.postgres_url, NAMED_BY_OTHERS, PAGE_ITEMS, uuid_of(file_of(item)))
    assert (await apis.get(BOB, f"/v1/files/{file_of(item)}/content")).content == image
    await apis.request(BOB, "DELETE", f"/v1/conversations/{fork}/items/{item['id']}")
    assert (await apis.get(BOB, f"/v1/files/{file_of(item)}/content")).status_code == 404
    assert (await apis.get(ANN, f"/v1/files/{file_of(item)}/content")).content == image


async def test_the_image_of_a_failed_reply_is_read_until_its_response_is_deleted(
    apis: Apis, provider: ScriptedProvider
) -> None:
    image = png(1_000)
    conversation = await apis.create(ANN)
    provider.script = lambda exchange: exchange.json(400, {"error": {"message": "no", "code": "no"}})
    body = {"input": [with_image(image_url=data_uri(image))], "conversation": conversation}
    failed = (await apis.post(ANN, "/v1/responses", body)).json()["error"]["response_id"]
    [item] = (await apis.get(ANN, f"/v1/responses/{failed}/input_items")).json()["data"]
    assert await items(apis, conversation) == []
    content = f"/v1/files/{file_of(item)}/content"
    assert (await apis.get(ANN, content)).content == image
    assert (await apis.get(BOB, content)).status_code == 404
    await apis.request(ANN, "DELETE", f"/v1/responses/{failed}")
    assert (await apis.get(ANN, content)).status_code == 404


async def test_a_copy_of_an_image_is_read_until_its_original_is_deleted(apis: Apis) -> None:
    image = png(1_000)
    _, item = await shared_image(apis, image)
    copying = [{"type": "item_reference", "id": item["id"]}, {"role": "user", "content": "What is it?"}]
    await apis.reply(BOB, copying)
    content = f"/v1/files/{file_of(item)}/content"
    path = f"/v1/conversations/{(await apis.create(BOB))}"
    for conversation in await apis.listed(ANN):
        await apis.request(ANN, "DELETE", f"/v1/conversations/{conversation}/shares?subject=bob")
    assert (await apis.get(BOB, content)).content == image
    for conversation in await apis.listed(ANN):
        await apis.request(ANN, "DELETE", f"/v1/conversations/{conversation}")
    assert (await apis.get(BOB, content)).status_code == 404
    refused = await apis.post(BOB, f"{path}/items", {"items": [item]})
    assert error_of(refused) == (404, "file_not_found", "items[0].content[1].file_id")


async def test_a_reference_that_a_client_writes_gives_no_access(settings: Settings, apis: Apis) -> None:
    """In place of a content, a reference is refused. In a text, a reference is stored as text."""
    image = png(1_000)
    file_id = await upload(apis, image)
    conversation = await apis.create(ANN)
    await apis.post(ANN, f"/v1/conversations/{conversation}/items", {"items": [with_image(file_id=file_id)]})
    [(sha256, size)] = Log(settings.postgres_url).rows("SELECT sha256, size FROM content_refs")
    reference = f"content:{file_id}:{sha256.hex()}:{size}:data:image/png"
    url = {"type": "image_url", "image_url": {"url": reference}}
    chat_file = {"type": "file", "file": {"file_data": reference}}
    screenshot = {"type": "computer_screenshot", "image_url": reference}
    file: dict[str, Any] = {"type": "input_file", "file_data": reference}
    look: dict[str, Any] = {"type": "input_image", "image_url": reference}
    call = {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"}
    tool_call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    for part in (look, file, screenshot):
        output = {"type": "function_call_output", "call_id": "c", "output": [part]}
        sent: dict[str, Any]
        for sent in ({"role": "user", "content": [part]}, output, {"type": "note", "any": {"where": [part]}}):
            answer = await apis.post(BOB, "/v1/responses", {"input": [call, sent]})
            assert error_of(answer)[:2] == (400, "invalid_value"), sent
    for part in (url, chat_file, look):
        calling = {"role": "assistant", "content": None, "tool_calls": [tool_call]}
        for messages in (
            [{"role": "user", "content": [part]}],
            [{"role": "system", "content": [part]}, {"role": "user", "content": "?"}],
            [calling, {"role": "tool", "tool_call_id": "c", "content": [part]}],
        ):
            answer = await apis.post(BOB, "/v1/chat/completions", {"messages": messages})
            assert error_of(answer)[:2] == (400, "invalid_value"), messages
    text = {"role": "user", "content": [{"type": "input_text", "text": reference}]}
    written = await apis.reply(BOB, [text])
    [item] = (await apis.get(BOB, f"/v1/responses/{written['id']}/input_items")).json()["data"]
    assert item["content"][0]["text"] == reference
    assert (await apis.get(BOB, f"/v1/files/{file_id}/content")).status_code == 404
