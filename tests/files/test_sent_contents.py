"""Images are put into a request while it is sent to the provider."""

import hashlib
import json
from typing import Any

import pytest

from context.inlined_contents import BodyWithContents
from context.rendering import request_sha256
from domain.content_references import inline_reference
from infrastructure.event_log.reader import EventReader
from infrastructure.settings import Settings
from infrastructure.stores.postgres import make_pool
from tests.access.apis_as import Apis
from tests.access.made_keys import execute
from tests.commands.api_client import error_of
from tests.files.requests import ANN, upload
from tests.files.samples import data_uri, png, with_image
from tests.scripted_provider import Exchange, ScriptedProvider


async def test_a_retry_sends_the_whole_image_again(apis: Apis, provider: ScriptedProvider) -> None:
    answer = provider.script

    def fail_once(exchange: Exchange) -> None:
        provider.script = answer
        exchange.json(503, {}, retry_after_ms="10")

    provider.script = fail_once
    image = png(600_000)
    response = await apis.reply(ANN, [with_image(file_id=await upload(apis, image))])
    assert response["status"] == "completed"
    first, second = provider.requests
    assert first == second
    assert json.dumps(second).count(data_uri(image)) == 1


@pytest.mark.parametrize("model_api", ["chat"])
async def test_a_reply_fails_if_its_image_is_gone_when_it_is_sent_again(
    settings: Settings, apis: Apis, provider: ScriptedProvider
) -> None:
    answer = provider.script

    def delete_and_fail(exchange: Exchange) -> None:
        provider.script = answer
        execute(settings.postgres_url, "DELETE FROM content_rows WHERE tenant_id = 'acme' AND number = 1")
        exchange.json(503, {}, retry_after_ms="10")

    provider.script = delete_and_fail
    file_id = await upload(apis, png(600_000))
    refused = await apis.post(ANN, "/v1/responses", {"input": [with_image(file_id=file_id)]})
    assert error_of(refused)[:2] == (409, "file_not_found")
    assert len(provider.requests) == 1
    assert (await apis.reply(ANN, "And?"))["status"] == "completed"


@pytest.mark.parametrize("size", [1, 262_143, 262_144, 262_145, 600_001])
@pytest.mark.parametrize("model_api", ["chat"])
async def test_the_text_is_that_of_the_body_with_the_data(settings: Settings, apis: Apis, size: int) -> None:
    data = png(size, seed=b"") if size < 100 else png(size)
    await upload(apis, data)
    label = 'image/png;name="é\\"'
    reference = inline_reference("acme", hashlib.sha256(data).digest(), len(data), label)

    def body(url: str) -> dict[str, Any]:
        part = {"image_url": {"url": url}, "type": "image_url"}
        texts = [{"role": "user", "content": reference.text}, {"role": "user", "content": [part, part]}]
        return {"stream": True, "model": "scripted", "messages": texts}

    async with make_pool(settings.postgres_url) as pool:
        sent = BodyWithContents(EventReader(pool).of_tenant("acme"), body(reference.text))
        text = b"".join([part async for part in sent])
        inlined = body(data_uri(data, label))
        assert json.loads(text) == inlined
        assert sent.size == len(text)
        assert await sent.sha256() == request_sha256(inlined)
