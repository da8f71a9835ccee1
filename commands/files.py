"""Uploads and deletes files."""

import re
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

from fastapi import APIRouter
from pydantic import Field
from starlette.responses import Response

from commands.bodies import Body
from commands.command_route import CommandContext, command_route
from commands.content_intake import MAX_FILENAME_BYTES
from domain.errors import FileNotFound
from infrastructure.contents import file_store
from infrastructure.contents.file_store import reader_of
from infrastructure.contents.media_types import media_type_of
from infrastructure.contents.staged_content import staged_content
from infrastructure.event_log.log import utc_now
from infrastructure.http import shapes
from infrastructure.http.body import validate
from infrastructure.http.errors import ApiError
from infrastructure.http.file_shapes import File, FileDeleted, Purpose, file_shape
from infrastructure.http.multipart import MULTIPART, Form, read_form
from infrastructure.ids import mint_file

router = APIRouter()

MIN_SECONDS, MAX_SECONDS = 3_600, 30 * 24 * 3_600
BATCH_SECONDS: Final = MAX_SECONDS
"""As in the official API, files of batches expire after 30 days by default."""

_IDEMPOTENCY: Final = {
    "Idempotency-Key": "A repeated upload with the same key gets the first file, as long as it exists."
}
_EXPIRES_AFTER = re.compile(r"expires_after\[(\w{1,64})\]")
_SECONDS = re.compile(r"[0-9]{1,10}")


class ExpiresAfter(Body):
    """When the file expires: `seconds` after it was created, from an hour to 30 days."""

    anchor: Annotated[str, Field(json_schema_extra={"enum": ["created_at"]}, pattern="^created_at$")]
    seconds: Annotated[int, Field(ge=MIN_SECONDS, le=MAX_SECONDS)]


class NewFile(Body):
    """A file and its purpose. Forms name the fields of `expires_after` as `expires_after[anchor]` and `expires_after[seconds]`."""

    file: Annotated[str, Field(json_schema_extra={"format": "binary"})]
    purpose: Purpose
    expires_after: ExpiresAfter | None = None


@command_route(
    router,
    "POST",
    "/v1/files",
    NewFile,
    streamed=True,
    body_media=MULTIPART,
    answer=File,
    answer_headers=("Idempotent-Replayed",),
    request_headers=_IDEMPOTENCY,
)
async def create_file(context: CommandContext, body: AsyncIterator[bytes]) -> Response:
    """Uploads a file of at most 32 MB. Equal files of a tenant are stored once. Answers when the file is durable."""
    with staged_content() as content:
        form = await read_form(context.headers, body, "file", content.write)
        new = _checked(form)
        if content.size == 0:
            raise ApiError(400, "The file is empty.", code="empty_file", param="file")
        created_at = utc_now()
        file = file_store.NewFile(
            id=mint_file(),
            filename=new.file,
            purpose=new.purpose,
            media_type=media_type_of(content.head, form.media_type),
            created_at=created_at,
            expires_at=_expires_at(new, created_at),
            idempotency_key=context.idempotency.key if context.idempotency else None,
        )
        principal = context.principal
        stored = await context.dependencies.files.add(principal.tenant, principal.subject, file, content)
    headers = {} if stored.id == file.id else {"idempotent-replayed": "true"}
    return shapes.json_response(file_shape(stored), headers=headers)


@command_route(router, "DELETE", "/v1/files/{file_id}", answer=FileDeleted, answer_headers=(), request_headers={})
async def delete_file(context: CommandContext, file_id: str) -> Response:
    """Deletes a file. Unless another file or an item has the same content, the content can no longer be read, and is removed within about a day. Answers with a receipt."""
    if not await context.dependencies.files.delete(reader_of(context.principal), file_id):
        raise FileNotFound(file_id)
    return shapes.json_response(FileDeleted(id=file_id, deleted=True))


def _checked(form: Form) -> NewFile:
    """Raises ApiError (400)."""
    if form.filename is None:
        raise ApiError(400, "The form has no `file`.", code="missing_file", param="file")
    new = validate(NewFile, _nested(form))
    name = new.file
    if name in ("", ".", "..") or not name.isprintable() or "/" in name or "\\" in name:
        message = "The file's name must be printable, and no path."
        raise ApiError(400, message, code="invalid_filename", param="file")
    if len(name.encode()) > MAX_FILENAME_BYTES:
        message = f"The file's name is longer than {MAX_FILENAME_BYTES} bytes."
        raise ApiError(400, message, code="invalid_filename", param="file")
    return new


def _nested(form: Form) -> dict[str, Any]:
    """The form as a JSON object. SDKs send the fields of an object with the names `object[field]`."""
    value: dict[str, Any] = {"file": form.filename}
    expires_after: dict[str, Any] = {}
    for name, text in form.fields.items():
        inner = _EXPIRES_AFTER.fullmatch(name)
        if inner is None:
            value[name] = text
        else:
            expires_after[inner[1]] = int(text) if inner[1] == "seconds" and _SECONDS.fullmatch(text) else text
    return {**value, "expires_after": expires_after} if expires_after else value


def _expires_at(new: NewFile, created_at: datetime) -> datetime | None:
    if new.expires_after is not None:
        return created_at + timedelta(seconds=new.expires_after.seconds)
    return created_at + timedelta(seconds=BATCH_SECONDS) if new.purpose == "batch" else None
