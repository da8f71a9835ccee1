"""The JSON of files."""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Struct

from infrastructure.contents.file_store import StoredFile
from infrastructure.http.shapes import Seconds

PURPOSES: Final = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
Purpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
FileId = Annotated[str, msgspec.Meta(examples=["file-019af3c5d2e07c31a7b1f0c1d2e3f405"])]


class File(Struct, frozen=True, kw_only=True, tag_field="object", tag="file"):
    """A File of the OpenAI API. Only this store has `media_type`. It is found in the first bytes, or else it is the type that the client sent."""

    id: FileId
    bytes: int
    created_at: Seconds
    expires_at: Seconds | None
    filename: str
    purpose: Annotated[str, msgspec.Meta(extra_json_schema={"enum": [*PURPOSES]})]
    status: Annotated[str, msgspec.Meta(extra_json_schema={"enum": ["processed"]})]
    media_type: str


class FileList(Struct, frozen=True, kw_only=True, tag_field="object", tag="list"):
    """A page of files."""

    data: list[File]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(Struct, frozen=True, kw_only=True, tag_field="object", tag="file"):
    """The receipt of a deletion."""

    id: FileId
    deleted: bool


def file_shape(file: StoredFile) -> File:
    return File(
        id=file.id,
        bytes=file.size,
        created_at=file.created_at,
        expires_at=file.expires_at,
        filename=file.filename,
        purpose=file.purpose,
        status="processed",
        media_type=file.media_type,
    )
