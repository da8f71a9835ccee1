"""Reads a multipart/form-data body (RFC 7578) of limited size as it arrives: short fields, and one file."""

from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from msgspec import Struct
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect

from infrastructure.http.errors import ApiError
from infrastructure.http.headers import single_header

MULTIPART: Final = "multipart/form-data"
MAX_PARTS: Final = 32
MAX_FIELD_BYTES: Final = 4_096
MAX_FILE_BYTES: Final = 32 * 1024 * 1024
MAX_FORM_BYTES: Final = 48 * 1024 * 1024
"""The maximum for the whole body. At most this much of a refused body is read too."""

_MAX_BOUNDARY: Final = 70
"""RFC 2046, 5.1.1."""

_ESCAPED: Final = (("%0A", "\n"), ("%0D", "\r"), ("%22", '"'))
"""What browsers escape in names (the HTML standard, "multipart form data")."""


class Form(Struct, kw_only=True):
    """`filename`: as the client sent it; None until its part has begun. `media_type`: of the file, as the client says."""

    fields: dict[str, str] = {}
    filename: str | None = None
    media_type: str | None = None


async def read_form(
    headers: Headers, body: AsyncIterator[bytes], file_field: str, write: Callable[[memoryview], object]
) -> Form:
    """Calls `write` with the bytes of the file. Raises what `write` raises, and ApiError (400, 413, 415)."""
    reader = _FormReader(file_field, write)
    parser = MultipartParser(_boundary(headers), reader.callbacks())  # type: ignore[arg-type]  # as its documentation shows
    size = 0
    try:
        async for chunk in body:
            size += len(chunk)
            if size > MAX_FORM_BYTES:
                raise _too_large(f"The body is larger than {MAX_FORM_BYTES} bytes.")
            try:
                parser.write(chunk)
            except Exception:
                # Many clients read the answer only after they have sent the whole body.
                async for rest in body:
                    size += len(rest)
                    if size > MAX_FORM_BYTES:
                        break
                raise
    except ClientDisconnect as error:
        raise ApiError(400, "The client disconnected before its request was complete.", code="client_closed") from error
    except MultipartParseError as error:
        raise _malformed("The body is not multipart/form-data with the boundary of its `Content-Type`.") from error
    if not reader.is_complete:
        raise _malformed("The body ends before its last boundary.")
    return reader.form


class _FormReader:
    def __init__(self, file_field: str, write: Callable[[memoryview], object]) -> None:
        self.form = Form()
        self.is_complete = False
        self._file_field = file_field
        self._write = write
        self._parts = 0
        self._header_name = b""
        self._header_value = b""
        self._headers: dict[bytes, bytes] = {}
        self._field: str | None = None
        """The name of the field that is being read. None for the file."""
        self._value = b""
        self._file_bytes = 0

    def callbacks(self) -> dict[str, Any]:
        return {
            "on_part_begin": self._on_part_begin,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_part_data,
            "on_part_end": self._on_part_end,
            "on_end": self._on_end,
        }

    def _on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise _malformed(f"The body has more than {MAX_PARTS} parts.")
        self._headers, self._value = {}, b""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers[self._header_name.lower()] = self._header_value
        self._header_name = self._header_value = b""

    def _on_headers_finished(self) -> None:
        disposition, options = parse_options_header(self._headers.get(b"content-disposition"))
        if disposition != b"form-data" or b"name" not in options:
            raise _malformed("A part has no `Content-Disposition: form-data` with a name.")
        name = _text(options[b"name"], "name")
        if name != self._file_field:
            if name in self.form.fields:
                raise _malformed(f"The body has more than one field `{name[:64]}`.")
            self._field = name
            return
        if b"filename" not in options:
            raise _malformed(f"The part `{name}` must be a file: it has no `filename`.", param=name)
        if self.form.filename is not None:
            raise _malformed(f"The body has more than one file `{name}`.", param=name)
        self._field = None
        self.form.filename = _text(options[b"filename"], "filename")
        self.form.media_type = self._headers.get(b"content-type", b"").decode("latin-1") or None

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        part = memoryview(data)[start:end]
        if self._field is not None:
            if len(self._value) + len(part) > MAX_FIELD_BYTES:
                raise _malformed(f"A field is larger than {MAX_FIELD_BYTES} bytes.", param=self._field[:64])
            self._value += part
            return
        self._file_bytes += len(part)
        if self._file_bytes > MAX_FILE_BYTES:
            raise _too_large(f"The file is larger than {MAX_FILE_BYTES} bytes.", param=self._file_field)
        self._write(part)

    def _on_part_end(self) -> None:
        if self._field is not None:
            self.form.fields[self._field] = _text(self._value, self._field[:64])

    def _on_end(self) -> None:
        self.is_complete = True


def _boundary(headers: Headers) -> bytes:
    """Raises ApiError (400, 415)."""
    sent = single_header(headers, "Content-Type")
    media_type, options = parse_options_header(sent)
    if media_type != MULTIPART.encode():
        problem = "has another" if sent else "has none"
        message = f"The request's `Content-Type` must be `{MULTIPART}`. It {problem}."
        raise ApiError(415, message, code="unsupported_media_type", param="Content-Type")
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= _MAX_BOUNDARY:
        message = f"The `Content-Type` must have a `boundary` of 1 to {_MAX_BOUNDARY} characters."
        raise ApiError(400, message, code="invalid_header", param="Content-Type")
    return boundary


def _text(sent: bytes, param: str) -> str:
    try:
        text = sent.decode()
    except UnicodeDecodeError as error:
        raise _malformed(f"`{param}` is not UTF-8.", param=param) from error
    if "\0" in text:
        raise _malformed(f"`{param}` contains a NUL character.", param=param)
    if param in ("name", "filename"):
        for escaped, character in _ESCAPED:
            text = text.replace(escaped, character)
    return text


def _malformed(message: str, *, param: str | None = None) -> ApiError:
    return ApiError(400, message, code="invalid_form", param=param)


def _too_large(message: str, *, param: str | None = None) -> ApiError:
    return ApiError(413, message, code="request_too_large", param=param, headers={"connection": "close"})
