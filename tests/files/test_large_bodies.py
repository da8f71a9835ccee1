"""Bodies of more than 8 MB are parsed one at a time."""

import asyncio
import json
from typing import Any

import psycopg
import pytest

from infrastructure.http.body import LargeBodies
from infrastructure.http.errors import ApiError
from infrastructure.settings import Settings
from tests.access.apis_as import Apis
from tests.commands.api_client import error_of
from tests.files.requests import ANN
from tests.files.samples import data_uri, png, with_image
from tests.log import Log

MB = 1024 * 1024
WAITING = (
    "SELECT FROM pg_stat_activity"
    " WHERE datname = current_database() AND wait_event_type = 'Lock' AND strpos(query, 'INTO contents') > 0"
)


@pytest.mark.parametrize("model_api", ["chat"])
@pytest.mark.parametrize("path", ["/v1/conversations", "/v1/import"])
async def test_a_body_that_waits_for_postgres_does_not_hold_the_turn(settings: Settings, apis: Apis, path: str) -> None:
    log = Log(settings.postgres_url)
    large = {"items": [with_image(image_url=data_uri(png(9 * MB)))]}
    bad = {"items": [with_image(image_url="data:image/png;base64,?" + "A" * 9 * MB)]}
    headers = {"content-type": "application/x-ndjson" if path == "/v1/import" else "application/json"}

    async def send(body: dict[str, Any]) -> Any:
        return await apis.request(ANN, "POST", path, content=json.dumps(body).encode() + b"\n", headers=headers)

    async with await psycopg.AsyncConnection.connect(settings.postgres_url) as locking:
        await locking.execute("LOCK TABLE contents IN SHARE MODE")
        waiting = asyncio.create_task(send(large))
        async with asyncio.timeout(20):
            while not await asyncio.to_thread(log.rows, WAITING):
                assert not waiting.done(), waiting.result().text
        assert (await asyncio.wait_for(send(bad), 20)).status_code == 400
        assert not waiting.done()
        await locking.rollback()
    assert (await waiting).status_code == 200
    assert log.rows("SELECT count(*) FROM contents") == [(1,)]


async def test_a_body_waits_for_its_turn_for_a_limited_time() -> None:
    bodies = LargeBodies(wait_seconds=0.01)
    async with bodies.turn():
        with pytest.raises(ApiError) as refused:
            async with bodies.turn():
                pytest.fail("two turns at once")
    assert (refused.value.status, refused.value.code) == (503, "too_many_large_bodies")
    assert refused.value.response().headers["retry-after"] == "1"
    async with bodies.turn():
        pass


@pytest.mark.parametrize("model_api", ["chat"])
async def test_a_file_beside_its_data_is_checked(apis: Apis) -> None:
    """Both in one body: the right data, and other data."""
    image = png(10_000)
    form = {"data": {"purpose": "user_data"}, "files": {"file": ("a.png", image)}}
    file_id = (await apis.request(ANN, "POST", "/v1/files", **form)).json()["id"]
    right = with_image(file_id=file_id, image_url=data_uri(image))
    wrong = with_image(file_id=file_id, image_url=data_uri(png(10_000)))
    created = await apis.post(ANN, "/v1/conversations", {"items": [right]})
    assert created.status_code == 200, created.text
    answer = await apis.post(ANN, "/v1/conversations", {"items": [right, wrong]})
    assert error_of(answer) == (400, "invalid_value", "items[1].content[1].image_url")
