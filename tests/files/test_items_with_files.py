"""Images and files in items: stored once, named by their ids, and sent to models with their data."""

import asyncio
import base64
import hashlib
import json
from typing import Any

import psycopg
import pytest

from infrastructure.contents.file_store import FileStore
from infrastructure.ids import uuid_of
from infrastructure.settings import Settings
from infrastructure.stores.postgres import make_pool
from tests.access.apis_as import Apis
from tests.access.made_keys import execute
from tests.commands.api_client import error_of
from tests.files.requests import ANN, BOB, STRANGER, items, upload, with_file
from tests.files.samples import PDF, data_uri, png, with_image
from tests.log import Log
from tests.scripted_provider import ScriptedProvider
from tests.servers import wait_until_async


async def included_item(apis: Apis, conversation: str, item_id: str) -> dict[str, Any]:
    path = f"/v1/conversations/{conversation}/items/{item_id}?include[]=message.input_image.image_url"
    item: dict[str, Any] = (await apis.get(ANN, path)).json()
    return item


def rows_with(postgres_url: str, planted: bytes) -> list[str]:
    """For each row that has these bytes or their base64, the name of the table."""
    found = []
    with psycopg.connect(postgres_url) as connection:
        tables = connection.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = current_schema::regnamespace"
        ).fetchall()
        for (table,) in tables:
            for row in connection.execute(f'SELECT * FROM "{table}"'.encode()):
                text = b"".join(value if isinstance(value, bytes) else str(value).encode() for value in row)
                if planted in text or base64.b64encode(planted)[:-4] in text:
                    found.append(table)
    return found


async def test_an_inline_image_is_stored_once_and_named_by_its_id(
    settings: Settings, apis: Apis, provider: ScriptedProvider
) -> None:
    image = png(200_000)
    conversation = await apis.create(ANN)
    for _ in range(3):
        await apis.reply(ANN, [with_image(image_url=data_uri(image))], conversation=conversation)
    assert str(provider.requests[-1]).count(data_uri(image)) == 3
    log = Log(settings.postgres_url)
    assert log.rows("SELECT count(*), sum(size) FROM contents") == [(1, len(image))]
    assert set(rows_with(settings.postgres_url, image[1_000:1_300])) == {"content_rows"}

    listed = await items(apis, conversation)
    [_, part] = listed[0]["content"]
    file_id = part.pop("file_id")
    assert part == {"type": "input_image", "detail": "low"}
    included = {"include[]": "message.input_image.image_url"}
    for item in (
        (await items(apis, conversation, **included))[0],
        await included_item(apis, conversation, listed[0]["id"]),
    ):
        assert item["content"][1] == {**part, "file_id": file_id, "image_url": data_uri(image)}
    for path in (f"items/{listed[0]['id']}", "events", "context?model=scripted", "tree"):
        answer = await apis.get(ANN, f"/v1/conversations/{conversation}/{path}")
        assert answer.status_code == 200
        assert "content:" not in answer.text
        assert (file_id in answer.text) == (path != "tree")
    assert log.rows("SELECT DISTINCT file_id FROM content_refs") == [(uuid_of(file_id),)]


async def test_an_uploaded_image_and_a_pdf_are_sent_with_their_data(apis: Apis, provider: ScriptedProvider) -> None:
    image = png(50_000)
    image_id, pdf_id = await upload(apis, image), await upload(apis, PDF, "a.pdf")
    reply = await apis.reply(ANN, [with_image(file_id=image_id), with_file(file_id=pdf_id)])
    sent = json.dumps(provider.requests[-1])
    for data in (data_uri(image), data_uri(PDF, "application/pdf"), "a.pdf"):
        assert data in sent
    assert image_id not in sent
    response = await apis.get(ANN, f"/v1/responses/{reply['id']}/context")
    assert response.json()["request_sha256_matches"] is True
    assert image_id in response.text
    [event] = [
        event
        for event in (await apis.get(ANN, f"/v1/conversations/{reply['conversation']['id']}/events")).json()["data"]
        if event["type"] == "reply.requested"
    ]
    body = json.dumps(provider.requests[-1], separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    assert event["data"]["shown"]["request_sha256"] == hashlib.sha256(body.encode()).hexdigest()
    listed = await apis.get(ANN, f"/v1/responses/{reply['id']}/input_items", params={"order": "asc"})
    assert [part["file_id"] for item in listed.json()["data"] for part in item["content"] if "file_id" in part] == [
        image_id,
        pdf_id,
    ]
    included = {"order": "asc", "include[]": "message.input_image.image_url"}
    listed = await apis.get(ANN, f"/v1/responses/{reply['id']}/input_items", params=included)
    assert listed.json()["data"][0]["content"][1]["image_url"] == data_uri(image)


async def test_a_listed_item_can_be_sent_back(settings: Settings, apis: Apis, provider: ScriptedProvider) -> None:
    image = png(10_000)
    conversation = await apis.create(ANN)
    added = await apis.post(
        ANN, f"/v1/conversations/{conversation}/items", {"items": [with_image(image_url=data_uri(image))]}
    )
    assert added.status_code == 200, added.text
    [listed] = await items(apis, conversation)
    assert added.json()["data"][0]["content"] == listed["content"]
    await apis.reply(ANN, [listed])
    assert data_uri(image) in json.dumps(provider.requests[-1])
    assert Log(settings.postgres_url).rows("SELECT count(*) FROM contents") == [(1,)]
    for other in (BOB, STRANGER):
        answer = await apis.post(other, "/v1/responses", {"input": [listed]})
        assert error_of(answer) == (404, "file_not_found", "input[0].content[1].file_id")


async def test_a_chat_transcript_with_an_image_is_recognised_and_sent_as_it_came(
    settings: Settings, apis: Apis, provider: ScriptedProvider
) -> None:
    image: dict[str, Any] = {"type": "image_url", "image_url": {"url": data_uri(png(10_000)), "detail": "low"}}
    messages: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, image]}]
    conversations = set()
    for turn in range(3):
        answer = await apis.post(ANN, "/v1/chat/completions", {"messages": messages})
        assert answer.status_code == 200, answer.text
        conversations.add(answer.headers["x-conversation-id"])
        response = await apis.get(ANN, f"/v1/responses/{answer.headers['x-response-id']}/context")
        assert response.json()["request_sha256_matches"] is True
        messages = [*messages, answer.json()["choices"][0]["message"], {"role": "user", "content": f"And {turn}?"}]
    assert len(conversations) == 1
    sent = provider.requests[-1]
    assert image["image_url"]["url"] in json.dumps(sent)
    if "messages" in sent:
        assert sent["messages"][0] == messages[0]
    assert Log(settings.postgres_url).rows("SELECT count(*) FROM contents") == [(1,)]


async def test_with_store_false_no_item_names_a_content(
    settings: Settings, apis: Apis, provider: ScriptedProvider
) -> None:
    image = png(10_000)
    await apis.reply(ANN, [with_image(image_url=data_uri(image))], store=False)
    assert data_uri(image) in json.dumps(provider.requests[-1])
    file_id = await upload(apis, image)
    await apis.reply(ANN, [with_image(file_id=file_id)], store=False)
    assert data_uri(image) in json.dumps(provider.requests[-1])
    assert Log(settings.postgres_url).rows("SELECT count(*) FROM content_refs") == [(0,)]


BAD: list[tuple[dict[str, Any], int, str, str]] = [
    (with_image(image_url="data:image/png;base64,!!!"), 400, "invalid_value", "image_url"),
    (with_image(image_url="data:image/png;base64,AAB="), 400, "invalid_value", "image_url"),
    (with_image(image_url="data:image/png,hello"), 400, "invalid_value", "image_url"),
    (with_image(image_url="data:image/png;base64,"), 400, "invalid_value", "image_url"),
    (with_image(image_url=data_uri(PDF)), 400, "invalid_value", "image_url"),
    (with_image(image_url=data_uri(png(), "image/jpeg")), 400, "invalid_value", "image_url"),
    (with_image(image_url=data_uri(b"hello", "text/plain")), 400, "invalid_value", "image_url"),
    (with_image(image_url=f"content:file-{'0' * 32}:{'0' * 64}:1:image/png"), 400, "invalid_value", "image_url"),
    (with_file(file_data="content:"), 400, "invalid_value", "file_data"),
    (with_file(file_id=f"file-{'0' * 32}"), 404, "file_not_found", "file_id"),
    (with_file(file_data=data_uri(PDF, "application/pdf"), filename="x" * 256), 400, "invalid_value", "filename"),
]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("model_api", ["chat"])
async def test_bad_data_is_refused_and_nothing_is_stored(
    settings: Settings, apis: Apis, bad: tuple[dict[str, Any], int, str, str]
) -> None:
    item, status, code, field = bad
    conversation = await apis.create(ANN, "one")
    [first] = await items(apis, conversation)
    param_in_item = f"content[{len(item['content']) - 1}].{field}"
    for path, body, param in (
        (f"/v1/conversations/{conversation}/items", {"items": [item]}, f"items[0].{param_in_item}"),
        ("/v1/conversations", {"items": [item]}, f"items[0].{param_in_item}"),
        ("/v1/responses", {"input": [item]}, f"input[0].{param_in_item}"),
        ("/v1/responses", {"input": [item], "store": False}, f"input[0].{param_in_item}"),
        ("/v1/responses/input_tokens", {"input": [item]}, f"input[0].{param_in_item}"),
        ("/v1/responses/compact", {"input": [item], "model": "scripted"}, f"input[0].{param_in_item}"),
        (f"/v1/conversations/{conversation}/items/{first['id']}", {"item": item}, f"item.{param_in_item}"),
    ):
        answer = await apis.post(ANN, path, body)
        assert error_of(answer) == (status, code, param), path
    escaped = json.dumps({"items": [item]})
    for plain, written in (("content:", "\\u0063ontent:"), ("data:", "\\u0064ata:"), ("input_", "input\\u005f")):
        escaped = escaped.replace(plain, written)
    answer = await apis.request(
        ANN,
        "POST",
        f"/v1/conversations/{conversation}/items",
        content=escaped.encode(),
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == status
    line = json.dumps({"items": [item]}).encode()
    imported = await apis.request(
        ANN, "POST", "/v1/import", content=line, headers={"content-type": "application/x-ndjson"}
    )
    assert imported.json()["errors"][0]["error"]["param"] == f"items[0].{param_in_item}"
    assert Log(settings.postgres_url).rows("SELECT count(*) FROM contents") == [(0,)]


@pytest.mark.parametrize("model_api", ["chat"])
async def test_the_file_of_another_user_is_a_404(apis: Apis) -> None:
    file_id = await upload(apis, png())
    for other in (BOB, STRANGER):
        answer = await apis.post(other, "/v1/responses", {"input": [with_image(file_id=file_id)]})
        assert error_of(answer) == (404, "file_not_found", "input[0].content[1].file_id")
    assert (await apis.request(ANN, "DELETE", f"/v1/files/{file_id}")).status_code == 200
    answer = await apis.post(ANN, "/v1/responses", {"input": [with_image(file_id=file_id)]})
    assert answer.status_code == 404


@pytest.mark.parametrize("model_api", ["chat"])
async def test_a_url_and_an_id_of_the_provider_are_passed_on(apis: Apis, provider: ScriptedProvider) -> None:
    url = "https://example.com/cat.png"
    await apis.reply(ANN, [with_image(image_url=url)])
    assert url in json.dumps(provider.requests[-1])
    await apis.reply(ANN, [with_file(file_id="file-abc123")])
    assert "file-abc123" in json.dumps(provider.requests[-1])


@pytest.mark.parametrize("model_api", ["chat"])
async def test_the_output_of_a_tool_may_have_an_image(apis: Apis, provider: ScriptedProvider) -> None:
    image = png(10_000)
    call = {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"}
    output = {
        "type": "function_call_output",
        "call_id": "c",
        "output": [{"type": "input_image", "image_url": data_uri(image)}],
    }
    conversation = await apis.create(ANN)
    added = await apis.post(ANN, f"/v1/conversations/{conversation}/items", {"items": [call, output]})
    assert added.status_code == 200, added.text
    assert "file_id" in added.json()["data"][1]["output"][0]
    assert "image_url" not in added.json()["data"][1]["output"][0]


@pytest.mark.parametrize("model_api", ["chat"])
async def test_items_and_bodies_with_images_have_size_limits(settings: Settings, apis: Apis) -> None:
    conversation = await apis.create(ANN)
    path = f"/v1/conversations/{conversation}/items"
    largest = png(32 * 1024 * 1024)
    added = await apis.post(ANN, path, {"items": [with_image(image_url=data_uri(largest))]})
    assert added.status_code == 200, added.text
    content = await apis.get(ANN, f"/v1/files/{added.json()['data'][0]['content'][1]['file_id']}/content")
    assert hashlib.sha256(content.content).digest() == hashlib.sha256(largest).digest()
    too_large = with_image(image_url=data_uri(largest + b"x"))
    two = [with_image(image_url=data_uri(png(18 * 1024 * 1024))) for _ in range(2)]
    text = {"role": "user", "content": "x" * 9 * 1024 * 1024}
    for items_sent, code in (
        ([too_large], "item_too_large"),
        (two, "request_too_large"),
        ([text], "request_too_large"),
        ([text, with_image(image_url=data_uri(png()))], "request_too_large"),
    ):
        refused = await apis.post(ANN, path, {"items": items_sent})
        assert error_of(refused)[:2] == (413, code)
    assert Log(settings.postgres_url).rows("SELECT count(*) FROM contents") == [(1,)]


async def test_a_forked_and_a_copied_image_is_sent_and_read(apis: Apis, provider: ScriptedProvider) -> None:
    image = png(10_000)
    first = await apis.reply(ANN, [with_image(image_url=data_uri(image))])
    conversation = first["conversation"]["id"]
    forked = (await apis.post(ANN, f"/v1/conversations/{conversation}/fork")).json()["id"]
    await apis.reply(ANN, "And in the fork?", conversation=forked)
    assert data_uri(image) in json.dumps(provider.requests[-1])
    [listed, *_] = await items(apis, forked)
    assert (await apis.get(ANN, f"/v1/files/{listed['content'][1]['file_id']}/content")).content == image
    await apis.reply(ANN, [{"type": "item_reference", "id": listed["id"]}, {"role": "user", "content": "And here?"}])
    assert data_uri(image) in json.dumps(provider.requests[-1])
    answer = await apis.post(ANN, "/v1/responses", {"regenerate": first["id"]})
    assert answer.status_code == 200, answer.text
    assert data_uri(image) in json.dumps(provider.requests[-1])


async def test_a_reader_reads_a_shared_image_until_the_share_and_forks_are_gone(apis: Apis) -> None:
    image = png(1_000)
    conversation = await apis.create(ANN)
    path = f"/v1/conversations/{conversation}"
    added = await apis.post(ANN, f"{path}/items", {"items": [with_image(image_url=data_uri(image))]})
    item = added.json()["data"][0]
    content = f"/v1/files/{item['content'][1]['file_id']}/content"
    assert (await apis.get(BOB, content)).status_code == 404
    await apis.post(ANN, f"{path}/shares", {"with": {"subject": "bob"}, "role": "reader"})
    assert (await apis.get(BOB, content)).content == image
    assert (await apis.get(STRANGER, content)).status_code == 404
    forks = [(await apis.post(BOB, f"{path}/fork")).json()["id"]]
    forks.append((await apis.post(BOB, f"/v1/conversations/{forks[0]}/fork")).json()["id"])
    await apis.request(ANN, "DELETE", f"{path}/shares?subject=bob")
    listed = (await apis.get(BOB, f"/v1/conversations/{forks[1]}/items")).json()["data"][0]
    for fork in forks:
        assert (await apis.get(BOB, content)).content == image
        sent_back = await apis.post(BOB, "/v1/responses", {"input": [listed]})
        assert sent_back.status_code == 200, sent_back.text
        await apis.request(BOB, "DELETE", f"/v1/conversations/{sent_back.json()['conversation']['id']}")
        await apis.request(BOB, "DELETE", f"/v1/conversations/{fork}")
    assert (await apis.get(BOB, content)).status_code == 404
    await apis.request(ANN, "DELETE", f"{path}/items/{item['id']}")
    assert (await apis.get(ANN, content)).status_code == 404


@pytest.mark.parametrize("model_api", ["chat"])
async def test_a_request_that_copies_a_missing_content_is_refused(settings: Settings, apis: Apis) -> None:

    image = png(1_000)
    conversation = await apis.create(ANN, "one")
    [listed] = (
        await apis.post(
            ANN, f"/v1/conversations/{conversation}/items", {"items": [with_image(image_url=data_uri(image))]}
        )
    ).json()["data"]
    copying = [{"type": "item_reference", "id": listed["id"]}, {"role": "user", "content": "?"}]
    execute(settings.postgres_url, "DELETE FROM content_refs WHERE tenant_id = 'acme'")
    execute(settings.postgres_url, "DELETE FROM contents WHERE tenant_id = 'acme'")
    before = Log(settings.postgres_url).count()
    answer = await apis.post(ANN, "/v1/responses", {"input": copying})
    assert error_of(answer)[:2] == (409, "file_not_found")
    assert Log(settings.postgres_url).count() == before


@pytest.mark.parametrize("model_api", ["chat"])
async def test_a_content_that_lacks_bytes_is_sent_to_no_model(
    settings: Settings, apis: Apis, provider: ScriptedProvider
) -> None:
    file_id = await upload(apis, png(300_000))
    execute(settings.postgres_url, "DELETE FROM content_rows WHERE tenant_id = 'acme' AND number = 1")
    answer = await apis.post(ANN, "/v1/responses", {"input": [with_image(file_id=file_id)]})
    assert error_of(answer)[:2] == (409, "file_not_found")
    assert provider.requests == []


async def test_a_changed_image_in_a_repeated_question_is_named(
    settings: Settings, apis: Apis, provider: ScriptedProvider
) -> None:
    first, second = png(10_000), png(10_000)

    def question(image: bytes) -> dict[str, Any]:
        part = {"type": "image_url", "image_url": {"url": data_uri(image)}}
        return {"role": "user", "content": [{"type": "text", "text": "What is this animal, please?"}, part]}

    answer = await apis.post(ANN, "/v1/chat/completions", {"messages": [question(first)]})
    messages = [question(second), answer.json()["choices"][0]["message"], {"role": "user", "content": "And now?"}]
    continued = await apis.post(ANN, "/v1/chat/completions", {"messages": messages})
    assert continued.headers["x-conversation-id"] == answer.headers["x-conversation-id"]
    assert data_uri(second) in json.dumps(provider.requests[-1])
    log = Log(settings.postgres_url)
    assert log.rows("SELECT count(DISTINCT sha256) FROM content_refs") == [(2,)]
    shown = await apis.get(ANN, f"/v1/responses/{continued.headers['x-response-id']}/context")
    assert shown.json()["request_sha256_matches"] is True


async def test_a_part_with_two_images_is_refused(settings: Settings, apis: Apis) -> None:
    both = {"type": "input_image", "url": data_uri(png(1_000)), "image_url": data_uri(png(1_001))}
    message = {"role": "user", "content": [{"type": "image_url", "image_url": both}]}
    answer = await apis.post(ANN, "/v1/chat/completions", {"messages": [message]})
    assert error_of(answer)[:2] == (400, "invalid_value")
    assert Log(settings.postgres_url).rows("SELECT count(*) FROM contents") == [(0,)]


async def test_images_are_included_only_if_the_item_names_them(settings: Settings, apis: Apis) -> None:
    of_bob, of_ann = png(1_000), png(1_001)
    [bobs, anns] = [
        (who, await apis.create(who), await upload(apis, data, who=who)) for who, data in ((BOB, of_bob), (ANN, of_ann))
    ]
    named = []
    for who, conversation, file_id in (bobs, anns):
        body = {"items": [with_image(file_id=file_id)]}
        added = await apis.post(who, f"/v1/conversations/{conversation}/items", body)
        named.append((added.json()["data"][0]["id"], file_id))
    (bobs_item, bobs_file), (anns_item, anns_file) = named
    async with make_pool(settings.postgres_url) as pool:
        files = FileStore(pool)
        assert (await files.references("acme", bobs_item, [bobs_file, anns_file])).keys() == {bobs_file}
        assert (await files.references("acme", anns_item, [bobs_file])) == {}


async def test_requests_that_name_files_do_not_wait_for_uploads(settings: Settings, apis: Apis) -> None:
    file_id = await upload(apis, png(1_000))
    conversation = await apis.create(ANN)
    data = png(2_000)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with await psycopg.AsyncConnection.connect(settings.postgres_url) as other:
        insert = "INSERT INTO contents (tenant_id, sha256, size) VALUES ('acme', %s, %s)"
        await other.execute(insert, (hashlib.sha256(data).digest(), len(data)))  # uploads of this content wait
        uploads = [asyncio.create_task(upload(apis, data)) for _ in range(3)]
        log = Log(settings.postgres_url)
        await wait_until_async(lambda: log.rows(waiting) == [(2,)], 5, "all connections for uploads are in use")
        body = {"items": [with_image(file_id=file_id)]}
        added = await apis.post(ANN, f"/v1/conversations/{conversation}/items", body)
        assert added.status_code == 200, added.text
        assert not any(each.done() for each in uploads)
        await other.rollback()
    await asyncio.gather(*uploads)
