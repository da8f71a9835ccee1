"""`scripts/run verify` finds contents that are missing, changed, or named by nothing."""

from collections.abc import AsyncIterator

import psycopg
import pytest

from infrastructure.settings import Settings
from infrastructure.stores.postgres import make_pool
from scripts.verification.contents import Contents
from scripts.verification.streams import Streams
from tests.access.apis_as import Apis, open_apis, user
from tests.files.samples import data_uri, png, with_image

ANN = user("ann")


@pytest.fixture
async def apis(settings: Settings) -> AsyncIterator[Apis]:
    async with open_apis(settings) as opened:
        yield opened


async def differences(settings: Settings) -> list[tuple[str, str]]:
    found = []
    async with make_pool(settings.postgres_url) as pool:
        contents, streams = Contents(pool), Streams(pool, None)
        while page := await streams.next():
            found += [difference async for difference in contents.compare(page)]
        found += [difference async for difference in contents.not_named_or_changed()]
    return [(difference.where, difference.what) for difference in found]


AS_TENANT = " WHERE tenant_id = 'acme'"


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("SELECT 1", []),
        (f"DELETE FROM content_rows{AS_TENANT}", [("table contents", "missing")]),
        (f"DELETE FROM content_rows{AS_TENANT} AND number = 1", [("table contents", "different")]),
        (f"UPDATE content_rows SET bytes = bytes || 'x'{AS_TENANT} AND number = 1", [("table contents", "different")]),
        (f"UPDATE contents SET size = size + 1{AS_TENANT}", [("table contents", "different")]),
        (f"DELETE FROM content_refs{AS_TENANT}", [("table content_refs", "missing")]),
        (
            f"UPDATE content_refs SET row_key = 'msg_1'{AS_TENANT}",
            [("table content_refs", "extra"), ("table content_refs", "missing")],
        ),
        (
            f"UPDATE content_refs SET originator_id = gen_random_uuid(){AS_TENANT}",
            [("table content_refs", "extra"), ("table content_refs", "missing")],
        ),
        (f"SET session_replication_role = replica; DELETE FROM contents{AS_TENANT}", [("table contents", "missing")]),
        (
            f"DELETE FROM content_refs{AS_TENANT}; UPDATE contents SET written_at = now() - interval '2 days'",
            [("table content_refs", "missing"), ("table contents", "extra")],
        ),
    ],
)
async def test_missing_changed_and_unnamed_contents_are_reported(
    settings: Settings, apis: Apis, change: str, found: list[tuple[str, str]]
) -> None:
    image = with_image(image_url=data_uri(png(400_000)))
    kept, deleted = [(await apis.post(ANN, "/v1/conversations", {"items": [image]})).json()["id"] for _ in range(2)]
    await apis.request(ANN, "DELETE", f"/v1/conversations/{deleted}")
    assert kept != deleted
    with psycopg.connect(settings.postgres_url) as connection:
        connection.execute(change.encode())
    assert sorted(await differences(settings)) == sorted(found)
