"""A content that nothing names is collected if it was last stored more than a day ago."""

import asyncio
import threading
from collections.abc import AsyncIterator

import psycopg
import pytest

from infrastructure.contents.collection import ContentCollector
from infrastructure.settings import Settings
from infrastructure.stores.postgres import make_pool
from tests.access.apis_as import Apis, open_apis, projecting, user
from tests.access.made_keys import execute
from tests.files.samples import PDF, data_uri, png, with_image
from tests.log import Log
from tests.scripted_provider import Exchange, scripted_provider

ANN = user("ann")
COUNTS = "SELECT (SELECT count(*) FROM contents), (SELECT count(*) FROM content_rows)"
AGE = "UPDATE contents SET written_at = written_at - make_interval(hours => %s) WHERE tenant_id = 'acme'"


@pytest.fixture
async def collector(settings: Settings) -> AsyncIterator[ContentCollector]:
    async with make_pool(settings.postgres_url, read_only=False) as pool:
        yield ContentCollector(pool)


@pytest.fixture
async def apis(settings: Settings) -> AsyncIterator[Apis]:
    async with open_apis(settings) as opened, projecting(opened.projector):
        yield opened


async def upload(apis: Apis, data: bytes, **fields: str) -> str:
    form = {"data": {"purpose": "user_data", **fields}, "files": {"file": ("a", data)}}
    answer = await apis.request(ANN, "POST", "/v1/files", **form)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


async def test_an_unnamed_content_is_collected_a_day_after_it_was_last_stored(
    settings: Settings, apis: Apis, collector: ContentCollector
) -> None:
    log, image = Log(settings.postgres_url), png(600_000)
    file_id = await upload(apis, image)
    conversation = await apis.create(ANN)
    items = f"/v1/conversations/{conversation}/items"
    added = await apis.post(ANN, items, {"items": [with_image(image_url=data_uri(image))]})
    item = added.json()["data"][0]
    execute(settings.postgres_url, AGE, 25)
    await apis.request(ANN, "DELETE", f"/v1/files/{file_id}")
    assert await collector.collect() == 0
    inline_id = item["content"][1]["file_id"]
    content = await apis.get(ANN, f"/v1/files/{inline_id}/content")
    assert content.content == image
    await apis.request(ANN, "DELETE", f"{items}/{item['id']}")
    assert (await apis.get(ANN, f"/v1/files/{inline_id}/content")).status_code == 404
    assert await collector.collect() == 0  # the item can be restored
    await apis.post(ANN, f"{items}/{item['id']}/restore")
    assert (await apis.get(ANN, f"/v1/files/{inline_id}/content")).content == image
    await apis.request(ANN, "DELETE", f"/v1/conversations/{conversation}")
    assert (await apis.get(ANN, f"/v1/files/{inline_id}/content")).status_code == 404
    execute(settings.postgres_url, AGE, -2)
    assert await collector.collect() == 0
    execute(settings.postgres_url, AGE, 2)
    assert log.rows(COUNTS) == [(1, 3)]
    assert await collector.collect() == 1
    assert log.rows(COUNTS) == [(0, 0)]


async def test_expired_files_are_collected(settings: Settings, apis: Apis, collector: ContentCollector) -> None:
    await upload(apis, PDF)
    execute(settings.postgres_url, "UPDATE files SET expires_at = now() WHERE tenant_id = 'acme'")
    execute(settings.postgres_url, AGE, 25)
    assert await collector.collect() == 1
    assert Log(settings.postgres_url).rows("SELECT count(*) FROM files") == [(0,)]


async def test_a_content_that_is_being_named_is_not_collected(
    settings: Settings, apis: Apis, collector: ContentCollector
) -> None:
    """Another transaction has inserted a file with the content, and has not committed yet."""
    file_id = await upload(apis, PDF)
    await apis.request(ANN, "DELETE", f"/v1/files/{file_id}")
    execute(settings.postgres_url, AGE, 25)
    async with await psycopg.AsyncConnection.connect(settings.postgres_url) as naming:
        await naming.execute(
            "INSERT INTO files (tenant_id, file_id, subject, sha256, size, filename, purpose, media_type, created_at)"
            " SELECT tenant_id, gen_random_uuid(), 'ann', sha256, size, 'a', 'vision', 'image/png', now() FROM contents"
        )
        assert await collector.collect() == 0
        await naming.commit()
    assert await collector.collect() == 0
    assert Log(settings.postgres_url).rows(COUNTS) == [(1, 1)]


async def test_simultaneous_uploads_and_collections_of_one_content_lose_nothing(
    settings: Settings, apis: Apis, collector: ContentCollector
) -> None:
    log = Log(settings.postgres_url)
    for _ in range(10):
        await upload(apis, PDF)
        execute(settings.postgres_url, "DELETE FROM files WHERE tenant_id = 'acme'")
        execute(settings.postgres_url, AGE, 25)
        ids, *_ = await asyncio.gather(
            asyncio.gather(*(upload(apis, PDF) for _ in range(3))), collector.collect(), collector.collect()
        )
        for file_id in ids:
            assert (await apis.get(ANN, f"/v1/files/{file_id}/content")).content == PDF
        assert log.rows(COUNTS) == [(1, 1)]


async def test_a_file_deleted_during_a_reply_stays_in_the_item(settings: Settings, collector: ContentCollector) -> None:
    image = png(300_000)
    may_answer = threading.Event()
    for provider in scripted_provider():

        def script(exchange: Exchange) -> None:
            may_answer.wait(60)
            exchange.stream_text("A cat.")

        provider.script = script
        changes = {"openai_base_url": provider.url, "default_model": "scripted"}
        async with open_apis(settings.model_copy(update=changes)) as opened, projecting(opened.projector):
            file_id = await upload(opened, image)
            replying = asyncio.create_task(opened.reply(ANN, [with_image(file_id=file_id)]))
            async with asyncio.timeout(30):
                while not provider.requests:  # noqa: ASYNC110 - the provider runs in a thread
                    await asyncio.sleep(0.01)
            assert (await opened.request(ANN, "DELETE", f"/v1/files/{file_id}")).status_code == 200
            execute(settings.postgres_url, AGE, 25)
            assert await collector.collect() == 0
            may_answer.set()
            assert (await replying)["status"] == "completed"
            assert (await opened.get(ANN, f"/v1/files/{file_id}")).status_code == 404
            assert (await opened.get(ANN, f"/v1/files/{file_id}/content")).content == image
