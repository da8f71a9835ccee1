"""GET /v1/files: the caller's files, from Postgres."""

import re
import time
from collections.abc import AsyncIterator
from typing import Final
from urllib.parse import quote

from fastapi import APIRouter
from msgspec import Struct
from pydantic import Field
from starlette.responses import Response, StreamingResponse

from domain.content_references import ROW_BYTES
from domain.errors import FileNotFound
from infrastructure.contents.file_store import StoredFile, reader_of
from infrastructure.http.errors import ApiError
from infrastructure.http.file_shapes import File, FileList, Purpose, file_shape
from infrastructure.http.headers import is_unmodified
from infrastructure.http.operations import OCTETS
from infrastructure.http.path_ids import check_id
from infrastructure.http.shapes import encode, json_response
from infrastructure.ids import FILE
from queries.paging import MAX_PAGE_BYTES, CursorParam, Page, PageQuery, unknown_cursor
from queries.query_context import QueryContext
from queries.query_route import query_route

router = APIRouter(tags=["files"])

MAX_FILES: Final = 10_000
CHECK_SECONDS: Final = 1.0
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
_CONTENT_HEADERS: Final = ("Accept-Ranges", "Content-Disposition", "Content-Range", "ETag")
_REQUEST_HEADERS: Final = {
    "Range": "Asks for a part of the file: `bytes=0-99`, `bytes=100-` or `bytes=-100`. Any other value is ignored, several parts too: then the answer is the whole file.",
    "If-Range": "The `Range` counts only if the file has this `ETag`.",
}


class FilesQuery(PageQuery):
    limit: int = Field(MAX_FILES, ge=1, le=MAX_FILES)
    purpose: Purpose | None = Field(None, description="Only files with this purpose.")


@query_route(router, "/v1/files", FilesQuery, answer=FileList, answer_headers=())
async def list_files(context: QueryContext, query: FilesQuery) -> Response:
    """A page of the files that the caller has uploaded, newest first. An admin gets those of the whole tenant."""
    reader, files = reader_of(context.principal), context.dependencies.files
    await _check_cursor(context, "after", query.after)
    await _check_cursor(context, "before", query.before)
    lower, upper = (query.after, query.before) if query.ascending else (query.before, query.after)
    found = await files.page(
        reader,
        purpose=query.purpose,
        lower=lower,
        upper=upper,
        limit=query.limit + 1,
        ascending=query.ascending != query.is_backwards,
    )
    page = Page(limit=query.limit, max_bytes=MAX_PAGE_BYTES)
    for file in found:
        if not page.add(file.id, encode(file_shape(file))):
            break
    return json_response(page.body(is_backwards=query.is_backwards))


@query_route(router, "/v1/files/{file_id}", answer=File, answer_headers=())
async def get_file(context: QueryContext, file_id: str) -> Response:
    """The file's name, size, purpose and type."""
    return json_response(file_shape(await _file(context, file_id)))


@query_route(
    router,
    "/v1/files/{file_id}/content",
    headers=_REQUEST_HEADERS,
    answer=None,
    has_ranges=True,
    answer_headers=_CONTENT_HEADERS,
    errors=(416,),
)
async def get_file_content(context: QueryContext, file_id: str) -> Response:
    """The bytes of the file, or of a `Range` of it. Also of a file in an item that the caller may read."""
    content = await _content(context, file_id)
    tag = f'"{content.sha256.hex()}"'
    headers = {
        "accept-ranges": "bytes",
        "etag": tag,
        "content-type": OCTETS,  # as in the official API; no browser shows it
        "content-disposition": f"attachment; filename*=UTF-8''{quote(content.filename, safe='')}",
    }
    if is_unmodified(context.request.headers, tag):
        return Response(status_code=200, headers=headers)  # the route makes it a 304
    part = _requested_part(context, content.size, tag)
    start, end = part or (0, content.size)
    headers["content-length"] = str(end - start)
    if part is not None:
        headers["content-range"] = f"bytes {start}-{end - 1}/{content.size}"
    status = 200 if part is None else 206
    if context.request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    rows = _rows(context, file_id, content, start, end)
    first_row = await anext(rows)  # before the answer begins, so that an error has a status
    return StreamingResponse(_chain(first_row, rows), status, headers)


class _Content(Struct, frozen=True):
    sha256: bytes
    size: int
    filename: str


async def _content(context: QueryContext, file_id: str) -> _Content:
    """Raises FileNotFound."""
    files, log = context.dependencies.files, context.dependencies.log
    file = await files.get(reader_of(context.principal), file_id)
    if file is not None:
        return _Content(file.sha256, file.size, file.filename)
    found = await log.file_in_items(files, file_id)
    if found is None:
        raise FileNotFound(file_id)
    return _Content(found.reference.sha256, found.reference.size, found.filename or file_id)


async def _rows(context: QueryContext, file_id: str, content: _Content, start: int, end: int) -> AsyncIterator[bytes]:
    """Checks again, every second, whether the caller may read the file. A slow client holds no connection."""
    checked_at = time.monotonic()
    for number in range(start // ROW_BYTES, -(-end // ROW_BYTES)):
        if time.monotonic() - checked_at > CHECK_SECONDS:
            await _content(context, file_id)
            checked_at = time.monotonic()
        row = await context.dependencies.log.content_row(content.sha256, number)
        if row is None:
            raise FileNotFound(file_id)
        first = number * ROW_BYTES
        yield row[max(start - first, 0) : end - first]


async def _chain(first_row: bytes, rows: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first_row
    async for row in rows:
        yield row


async def _file(context: QueryContext, file_id: str) -> StoredFile:
    """Raises FileNotFound."""
    file = await context.dependencies.files.get(reader_of(context.principal), file_id)
    if file is None:
        raise FileNotFound(file_id)
    return file


async def _check_cursor(context: QueryContext, param: CursorParam, cursor: str | None) -> None:
    if cursor is None:
        return
    check_id(cursor, FILE, param)
    if await context.dependencies.files.get(reader_of(context.principal), cursor) is None:
        raise unknown_cursor(param, "a file")


def _requested_part(context: QueryContext, size: int, tag: str) -> tuple[int, int] | None:
    """(index of the first byte, index after the last byte), as in RFC 9110, 14. None for the whole file. Raises ApiError (416)."""
    headers = context.request.headers
    requested = _RANGE.fullmatch(headers.get("range", ""))
    if requested is None or headers.get("if-range", tag) != tag:
        return None
    first, last = requested[1], requested[2]
    if not first and not last:
        return None
    if first:
        start, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < int(first):
            return None  # it is malformed
    else:
        start, end = max(size - int(last), 0), size
    if start >= end:
        message = f"The file has {size} bytes, and none of them is in the `Range`."
        headers_of_error = {"content-range": f"bytes */{size}"}
        raise ApiError(416, message, code="invalid_range", param="Range", headers=headers_of_error)
    return start, end
