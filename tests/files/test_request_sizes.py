"""How large images may be in requests, replies and imports."""

import asyncio
import json
from typing import Any

import psycopg
import pytest

from context.inlined_contents import MAX_INLINE_BYTES
from infrastructure.settings import Settings
from tests.access.apis_as import Apis
from tests.commands.api_client import error_of
from tests.files.requests import ANN, items, upload
from tests.files.samples import data_uri, png, with_image
from tests.log import Log
from tests.scripted_provider import ScriptedProvider
from tests.servers import wait_until_async

MB = 1024 * 1024


def sent_images(provider: ScriptedProvider) -> list[str]:
    """The data URIs in the last request to the provider."""
    request = provider.requests[-1]
    parts = [part for message in request.get("messages") or request["input"] for part in message["content"]]
    urls = (part.get("image_url") for part in parts if isinstance(part, dict))
    return [url["url"] if isinstance(url, dict) else url for url in urls if url]


async def test_a_photo_is_sent_without_being_stored(settings: Settings, apis: Apis, provider: ScriptedProvider) -> None:
    photo = data_uri(png(6 * MB))
    await apis.reply(ANN, [with_image(image_url=photo)], store=False)
    assert sent_images(provider) == [photo]
    content = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": photo}}]
    messages = [{"role": "user", "content": content}]
    answer = await apis.post(ANN, "/v1/chat/completions", {"messages": messages, "store": False})
    assert answer.status_code == 200, answer.text
    assert sent_images(provider) == [photo]
    counted = await apis.post(ANN, "/v1/responses/input_tokens", {"input": [with_image(image_url=photo)]})
    assert counted.json()["input_tokens"] < 2_000
    log = Log(settings.postgres_url)
    assert log.rows("SELECT (SELECT count(*) FROM contents), (SELECT count(*) FROM events)") == [(0, 0)]


@pytest.mark.parametrize("model_api", ["chat"])
async def test_a_model_is_sent_only_the_newest_images_that_fit(apis: Apis, provider: ScriptedProvider) -> None:
    conversation = await apis.create(ANN)
    path = f"/v1/conversations/{conversation}"
    photos = [data_uri(png(13 * MB)) for _ in range(3)]
    assert sum(map(len, photos[1:])) < MAX_INLINE_BYTES < sum(map(len, photos))
    for photo in photos:
        await apis.post(ANN, f"{path}/items", {"items": [with_image(image_url=photo)]})
    response = await apis.reply(ANN, "And?", conversation=conversation)
    assert sent_images(provider) == photos[1:]
    shown = (await apis.get(ANN, f"/v1/responses/{response['id']}/context")).json()
    first = (await items(apis, conversation))[0]["id"]
    assert shown["left_out"] == [{"from": first, "to": first, "count": 1, "reason": "budget"}]
    assert shown["request_sha256_matches"] is True
    body = {"input": "And?", "conversation": conversation, "truncation": "disabled"}
    assert error_of(await apis.post(ANN, "/v1/responses", body)) == (413, "request_too_large", "input")


@pytest.mark.parametrize("model_api", ["chat"])
async def test_images_that_are_too_large_for_a_provider_are_refused(
    settings: Settings, apis: Apis, provider: ScriptedProvider
) -> None:
    ids = [await upload(apis, png(20 * MB)) for _ in range(2)]
    before = Log(settings.postgres_url).count()
    answer = await apis.post(ANN, "/v1/responses", {"input": [with_image(file_id=file_id) for file_id in ids]})
    assert error_of(answer) == (413, "request_too_large", "input")
    parts: list[Any] = [{"type": "image_url", "image_url": {"url": file_id}} for file_id in ids]
    answer = await apis.post(ANN, "/v1/chat/completions", {"messages": [{"role": "user", "content": parts}]})
    assert error_of(answer) == (413, "request_too_large", "input")
    assert Log(settings.postgres_url).count() == before
    assert provider.requests == []


@pytest.mark.parametrize("model_api", ["chat"])
async def test_a_line_of_an_import_may_have_a_large_image(settings: Settings, apis: Apis) -> None:
    photo = png(20 * MB)
    conversations: list[Any] = [
        {"items": [{"role": "user", "content": "small"}]},
        {"items": [with_image(image_url=data_uri(photo))], "title": "large"},
        {"items": [{"role": "user", "content": "x" * (9 * MB)}]},
    ]
    lines = b"".join(json.dumps(conversation).encode() + b"\n" for conversation in conversations)
    headers = {"content-type": "application/x-ndjson", "idempotency-key": "import"}
    for _ in range(2):
        answer = await apis.request(ANN, "POST", "/v1/import", content=lines, headers=headers)
        report = answer.json()
        assert (report["conversations"], [error["line"] for error in report["errors"]]) == (2, [3])
        assert report["errors"][0]["error"]["code"] == "request_too_large"
    log = Log(settings.postgres_url)
    assert log.rows("SELECT count(*), sum(size) FROM contents") == [(1, len(photo))]
    assert len(await apis.listed(ANN)) == 2


@pytest.mark.parametrize("model_api", ["chat"])
async def test_a_body_has_at_most_a_thousand_images(settings: Settings, apis: Apis) -> None:
    file_id = await upload(apis, png())
    for part in ({"file_id": file_id}, {"image_url": data_uri(png())}):
        message = with_image(**part)
        message["content"] = [message["content"][1]] * 1_001
        answer = await apis.post(ANN, "/v1/conversations", {"items": [message]})
        assert error_of(answer)[:2] == (413, "request_too_large")
        message["content"] = message["content"][:1_000]
        assert (await apis.post(ANN, "/v1/conversations", {"items": [message]})).status_code == 200
    assert Log(settings.postgres_url).rows("SELECT count(*) FROM contents") == [(2,)]
    message["content"] = [{"type": "input_image", "image_url": "https://example.com/a.png"}] * 1_001
    assert (await apis.post(ANN, "/v1/conversations", {"items": [message]})).status_code == 200


@pytest.mark.parametrize("model_api", ["chat"])
@pytest.mark.parametrize("path", ["/v1/conversations", "/v1/import"])
async def test_a_large_body_does_not_wait_for_the_database_of_another(
    settings: Settings, apis: Apis, path: str
) -> None:
    body = json.dumps({"items": [with_image(image_url=data_uri(png(7 * MB)))]}).encode()
    headers = {"content-type": "application/x-ndjson" if path == "/v1/import" else "application/json"}
    with psycopg.connect(settings.postgres_url) as connection:
        connection.execute("LOCK TABLE contents IN EXCLUSIVE MODE")
        storing = asyncio.create_task(apis.request(ANN, "POST", path, content=body, headers=headers))
        is_waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'contents'::regclass"
        await wait_until_async(lambda: connection.execute(is_waiting).fetchone() == (1,), 20, "the body to be stored")
        await apis.reply(ANN, [with_image(image_url=data_uri(png(7 * MB)))], store=False)
        assert not storing.done()
    assert (await storing).status_code == 200
