"""Refused uploads. Nothing is stored."""

import resource
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from infrastructure.http.multipart import MAX_FILE_BYTES, MAX_FORM_BYTES
from infrastructure.settings import Settings
from tests.access.made_keys import execute
from tests.commands.api_client import error_of
from tests.files.conftest import Person
from tests.files.samples import data_uri, png, with_image
from tests.log import Log

FORM = {"content-type": "multipart/form-data; boundary=xyz"}
PURPOSE = b'--xyz\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'


def file_part(name: bytes = b'filename="a.txt"', data: bytes = b"hello") -> bytes:
    return b'--xyz\r\nContent-Disposition: form-data; name="file"; ' + name + b"\r\n\r\n" + data + b"\r\n"


END = b"--xyz--\r\n"
FORM_BODY = PURPOSE + file_part() + END


async def send(person: Person, body: bytes, headers: dict[str, str] | None = None) -> tuple[int, Any, Any]:
    return error_of(await person.send("POST", "/v1/files", content=body, headers=FORM if headers is None else headers))


@pytest.fixture(autouse=True)
def nothing_is_stored(settings: Settings, ann: Person) -> Any:
    yield
    counts = "SELECT (SELECT count(*) FROM contents), (SELECT count(*) FROM content_rows), (SELECT count(*) FROM files)"
    assert Log(settings.postgres_url).rows(counts) == [(0, 0, 0)]


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (FORM_BODY[:-4], "invalid_form", None),
        (FORM_BODY[:80], "invalid_form", None),
        (b"", "invalid_form", None),
        (b"hello", "invalid_form", None),
        (PURPOSE * 10_000 + END, "invalid_form", None),
        (PURPOSE * 2 + file_part() + END, "invalid_form", None),
        (PURPOSE + file_part() * 2 + END, "invalid_form", "file"),
        (PURPOSE + END, "missing_file", "file"),
        (PURPOSE + file_part(b'other="x"') + END, "invalid_form", "file"),
        (file_part() + END, "invalid_value", "purpose"),
        (PURPOSE.replace(b"user_data", b"world peace") + file_part() + END, "invalid_value", "purpose"),
        (PURPOSE + PURPOSE.replace(b'"purpose"', b'"owner"') + file_part() + END, "unknown_parameter", "owner"),
        (
            PURPOSE + PURPOSE.replace(b'"purpose"', b'"expires_after[seconds]"') + file_part() + END,
            "invalid_value",
            "expires_after.anchor",
        ),
        (PURPOSE + file_part(data=b"") + END, "empty_file", "file"),
        (PURPOSE + file_part(b'filename="../../etc/passwd"') + END, "invalid_filename", "file"),
        (PURPOSE + file_part(b'filename="a\\\\b"') + END, "invalid_filename", "file"),
        (PURPOSE + file_part(b'filename=".."') + END, "invalid_filename", "file"),
        (PURPOSE + file_part(b'filename=""') + END, "invalid_filename", "file"),
        (PURPOSE + file_part(b'filename="a%0D%0AX: y"') + END, "invalid_filename", "file"),
        (PURPOSE + file_part(b'filename="' + b"a" * 256 + b'"') + END, "invalid_filename", "file"),
        (PURPOSE + file_part(b'filename="\xff"') + END, "invalid_form", "filename"),
        (PURPOSE.replace(b"user_data", b"x" * 5_000) + file_part() + END, "invalid_form", "purpose"),
        (
            PURPOSE.replace(b"\r\n\r\n", b"\r\nX: " + b"y" * 10_000 + b"\r\n\r\n") + file_part() + END,
            "invalid_form",
            None,
        ),
        (b"--xyz\r\nX: y\r\n\r\n\r\n" + END, "invalid_form", None),
    ],
)
async def test_a_malformed_form_is_a_400(ann: Person, body: bytes, code: str, param: str | None) -> None:
    assert await send(ann, body) == (400, code, param)


@pytest.mark.parametrize(
    ("content_type", "status", "code"),
    [
        ("application/json", 415, "unsupported_media_type"),
        ("multipart/mixed; boundary=xyz", 415, "unsupported_media_type"),
        ("multipart/form-data", 400, "invalid_header"),
        (f"multipart/form-data; boundary={'x' * 71}", 400, "invalid_header"),
        ("multipart/form-data; boundary=other", 400, "invalid_form"),
    ],
)
async def test_a_wrong_content_type_is_refused(ann: Person, content_type: str, status: int, code: str) -> None:
    answered = await send(ann, FORM_BODY, {"content-type": content_type})
    assert answered[:2] == (status, code)


async def test_a_file_that_is_too_large_is_a_413(ann: Person) -> None:
    assert (await send(ann, PURPOSE + file_part(data=b"x" * (MAX_FILE_BYTES + 1)) + END)) == (
        413,
        "request_too_large",
        "file",
    )


async def test_a_body_that_does_not_end_is_a_413(ann: Person) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        yield PURPOSE + file_part() + END
        while True:
            sent += 1_000_000
            yield b"x" * 1_000_000

    answer = await ann.send("POST", "/v1/files", content=endless(), headers=FORM)
    assert error_of(answer) == (413, "request_too_large", None)
    assert sent < MAX_FORM_BYTES + 10_000_000


@pytest.fixture
def full_temporary_directory() -> Iterator[None]:
    """This process can write files of at most 100 kB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def full_database(settings: Settings) -> Iterator[None]:
    """The second row of a content finds no space."""
    execute(
        settings.postgres_url,
        "CREATE FUNCTION no_space() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'No space left on device' USING ERRCODE = 'disk_full'; END $$;"
        " CREATE TRIGGER no_space BEFORE INSERT ON content_rows FOR EACH ROW WHEN (NEW.number = 1) EXECUTE FUNCTION no_space()",
    )
    yield
    execute(settings.postgres_url, "DROP FUNCTION no_space CASCADE")


@pytest.mark.parametrize("full", ["full_temporary_directory", "full_database"])
async def test_without_space_an_upload_is_a_503_and_nothing_is_stored(
    request: pytest.FixtureRequest, ann: Person, full: str
) -> None:
    request.getfixturevalue(full)
    answer = await ann.upload(png(300_000))
    assert error_of(answer) == (503, "no_space", None)


@pytest.mark.parametrize("full", ["full_temporary_directory", "full_database"])
async def test_without_space_an_item_with_an_image_is_a_503_and_nothing_is_stored(
    request: pytest.FixtureRequest, settings: Settings, ann: Person, full: str
) -> None:
    request.getfixturevalue(full)
    items = [with_image(image_url=data_uri(png(300_000)))]
    answer = await ann.send("POST", "/v1/conversations", json={"items": items})
    assert error_of(answer) == (503, "no_space", None)
    assert Log(settings.postgres_url).count() == 0


async def test_without_space_for_a_large_body_the_answer_is_a_503(
    full_temporary_directory: None, settings: Settings, ann: Person
) -> None:
    items = [with_image(image_url=data_uri(png(9_000_000)))]
    answer = await ann.send("POST", "/v1/conversations", json={"items": items})
    assert error_of(answer) == (503, "no_space", None)
    assert Log(settings.postgres_url).count() == 0
