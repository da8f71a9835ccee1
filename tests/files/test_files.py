"""`/v1/files`: uploads, lists, downloads and deletions."""

import asyncio
import time

import pytest

from infrastructure.settings import Settings
from tests.access.made_keys import execute
from tests.commands.api_client import error_of
from tests.files.conftest import Person
from tests.files.samples import PDF, png
from tests.log import Log

KEY = {"idempotency-key": "k"}
COUNTS = "SELECT (SELECT count(*) FROM contents), (SELECT count(*) FROM files)"


async def test_an_uploaded_file_can_be_listed_read_and_deleted(settings: Settings, ann: Person) -> None:
    data = png(700_000)
    answer = await ann.upload(data, "Foto é.png", purpose="vision")
    assert answer.status_code == 200, answer.text
    file = answer.json()
    assert file == {
        "object": "file",
        "id": file["id"],
        "bytes": len(data),
        "created_at": file["created_at"],
        "expires_at": None,
        "filename": "Foto é.png",
        "purpose": "vision",
        "status": "processed",
        "media_type": "image/png",
    }
    assert abs(file["created_at"] - time.time()) < 5
    assert file["id"].startswith("file-")
    path = f"/v1/files/{file['id']}"
    assert (await ann.send("GET", path)).json() == file
    assert (await ann.send("GET", "/v1/files")).json()["data"] == [file]

    content = await ann.content(file["id"])
    assert content.content == data
    assert content.headers["content-type"] == "application/octet-stream"
    assert content.headers["content-disposition"] == "attachment; filename*=UTF-8''Foto%20%C3%A9.png"
    head = await ann.send("HEAD", f"{path}/content")
    assert (head.status_code, head.headers["content-length"], head.content) == (200, str(len(data)), b"")
    tag = {"if-none-match": content.headers["etag"]}
    assert (await ann.content(file["id"], headers=tag)).status_code == 304

    deleted = await ann.send("DELETE", path)
    assert (deleted.status_code, deleted.json()) == (200, {"object": "file", "id": file["id"], "deleted": True})
    for method, gone in (("GET", path), ("GET", f"{path}/content"), ("DELETE", path)):
        assert error_of(await ann.send(method, gone)) == (404, "not_found", None)
    assert (await ann.send("GET", "/v1/files")).json()["data"] == []


async def test_equal_files_of_a_tenant_are_stored_once(
    settings: Settings, ann: Person, bob: Person, stranger: Person
) -> None:
    data = png(2_000_000)
    files = await asyncio.gather(*(person.uploaded(data) for person in (ann, bob, ann, ann)))
    log = Log(settings.postgres_url)
    assert log.rows(COUNTS) == [(1, 4)]
    [(size,)] = log.rows("SELECT sum(pg_column_size(bytes)) FROM content_rows")
    assert 2_000_000 <= size < 2_200_000
    await stranger.uploaded(data)
    assert log.rows(COUNTS) == [(2, 5)]
    await ann.send("DELETE", f"/v1/files/{files[0]}")
    assert (await bob.content(files[1])).content == data


async def test_a_file_is_read_by_its_owner_and_by_admins_of_the_tenant(
    ann: Person, bob: Person, admin: Person, stranger: Person
) -> None:
    data = PDF
    file = await ann.uploaded(data, "a.pdf")
    for other in (bob, stranger):
        for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
            answer = await other.send(method, f"/v1/files/{file}{path}")
            assert error_of(answer) == (404, "not_found", None)
        assert (await other.send("GET", "/v1/files")).json()["data"] == []
        assert error_of(await other.send("GET", f"/v1/files?after={file}")) == (400, "invalid_cursor", "after")
    assert (await admin.content(file)).content == data
    assert len((await admin.send("GET", "/v1/files")).json()["data"]) == 1
    assert (await admin.send("DELETE", f"/v1/files/{file}")).status_code == 200


@pytest.mark.parametrize(
    ("sent", "status", "start", "end"),
    [
        ("bytes=0-99", 206, 0, 100),
        ("bytes=262100-262200", 206, 262_100, 262_201),
        ("bytes=262144-", 206, 262_144, 600_000),
        ("bytes=-100", 206, 599_900, 600_000),
        ("bytes=-9999999", 206, 0, 600_000),
        ("bytes=599999-9999999", 206, 599_999, 600_000),
        ("bytes=5-4", 200, 0, 600_000),
        ("bytes=-", 200, 0, 600_000),
        ("bytes=0-1,4-5", 200, 0, 600_000),
        ("lines=0-1", 200, 0, 600_000),
        ("", 200, 0, 600_000),
        ("bytes=600000-", 416, 0, 0),
        ("bytes=-0", 416, 0, 0),
    ],
)
async def test_a_range_header_selects_bytes_of_a_file(
    ann: Person, sent: str, status: int, start: int, end: int
) -> None:
    data = png(600_000)
    file = await ann.uploaded(data)
    answer = await ann.content(file, headers={"range": sent, "accept-encoding": "gzip"})
    assert answer.status_code == status
    if status == 416:
        assert error_of(answer) == (416, "invalid_range", "Range")
        assert answer.headers["content-range"] == "bytes */600000"
        return
    assert answer.content == data[start:end]
    assert answer.headers["content-length"] == str(end - start)
    assert answer.headers.get("content-range") == (f"bytes {start}-{end - 1}/600000" if status == 206 else None)
    changed = await ann.content(file, headers={"range": sent, "if-range": '"other"'})
    assert (changed.status_code, changed.content) == (200, data)


async def test_a_list_of_files_has_pages_and_a_filter(ann: Person) -> None:
    ids = [await ann.uploaded(png(), purpose=purpose) for purpose in ("vision", "user_data", "vision", "vision")]

    async def page(**query: object) -> tuple[list[int], bool]:
        answer = await ann.send("GET", "/v1/files", params=query)
        assert answer.status_code == 200, answer.text
        return [ids.index(file["id"]) for file in answer.json()["data"]], answer.json()["has_more"]

    assert await page() == ([3, 2, 1, 0], False)
    assert await page(limit=2) == ([3, 2], True)
    assert await page(limit=2, after=ids[2]) == ([1, 0], False)
    assert await page(order="asc", after=ids[0], limit=1) == ([1], True)
    assert await page(before=ids[0], limit=2) == ([2, 1], True)
    assert await page(purpose="vision") == ([3, 2, 0], False)
    assert error_of(await ann.send("GET", "/v1/files?purpose=other")) == (400, "invalid_value", "purpose")


async def test_a_repeated_upload_with_the_same_key_gets_the_first_file(
    settings: Settings, ann: Person, bob: Person
) -> None:
    data = png()
    answers = await asyncio.gather(*(ann.upload(data, headers=KEY) for _ in range(4)))
    assert len({answer.text for answer in answers}) == 1
    assert sorted(answer.headers.get("idempotent-replayed", "") for answer in answers) == ["", "true", "true", "true"]
    assert error_of(await ann.upload(png(), headers=KEY)) == (422, "idempotency_key_reused", None)
    assert (await bob.upload(data, headers=KEY)).json()["id"] != answers[0].json()["id"]
    assert Log(settings.postgres_url).rows(COUNTS) == [(1, 2)]


async def test_an_expired_file_is_gone(settings: Settings, ann: Person) -> None:
    fields = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    kept = (await ann.upload(PDF, purpose="batch")).json()
    assert kept["expires_at"] == kept["created_at"] + 30 * 24 * 3_600
    file = (await ann.upload(PDF, fields=fields)).json()
    assert file["expires_at"] == file["created_at"] + 3_600
    execute(settings.postgres_url, "UPDATE files SET expires_at = now() WHERE size > 0 AND purpose = 'user_data'")
    assert error_of(await ann.content(file["id"])) == (404, "not_found", None)
    assert [each["id"] for each in (await ann.send("GET", "/v1/files")).json()["data"]] == [kept["id"]]


@pytest.mark.parametrize(
    ("data", "claimed", "media_type"),
    [
        (png(), "image/jpeg", "image/png"),
        (PDF, "text/plain", "application/pdf"),
        (b"<script>", "image/png", "application/octet-stream"),
        (b"hello", "Text/Plain; charset=utf-8", "text/plain"),
        (b"hello", "no type", "application/octet-stream"),
    ],
    ids=("PNG", "PDF", "unknown", "text", "text without a type"),
)
async def test_the_media_type_is_found_from_the_bytes_and_the_claimed_type(
    ann: Person, data: bytes, claimed: str, media_type: str
) -> None:
    answer = await ann.send("POST", "/v1/files", data={"purpose": "user_data"}, files={"file": ("a", data, claimed)})
    assert answer.json()["media_type"] == media_type
