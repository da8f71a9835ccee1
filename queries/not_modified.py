"""`If-None-Match`: a read whose answer the client already has is a 304.

The tag is the conversation's version. An answer that was not compared with the log (`X-Consistency`) is never a 304, nor is a stream, nor an
answer that has NO_STORE: it shows items of other conversations, which may be deleted while this version stays.
"""

from collections.abc import Mapping
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from infrastructure.http.headers import is_unmodified

HEADER = "if-none-match"
NO_STORE: Final[Mapping[str, str]] = {"cache-control": "no-store"}


class NotModified(Exception):
    """The client has this version. Raised by a handler, and answered by its route."""

    def __init__(self, tag: str) -> None:
        super().__init__(tag)
        self.tag = tag


def not_modified(tag: str) -> Response:
    """A 304. It has the headers of the 200 from which a cache finds the answer that it stored."""
    return Response(status_code=304, headers={"etag": tag, "vary": "Accept-Encoding"})


def check_header(request: Request) -> None:
    """Raises ApiError (400) if the header is malformed, also where the answer has no tag."""
    if HEADER in request.headers:
        is_unmodified(request.headers, "")


def unless_unmodified(request: Request, response: Response) -> Response:
    """The response, or a 304 if the client has it."""
    headers = response.headers
    if (
        HEADER not in request.headers
        or response.status_code != 200
        or "x-consistency" in headers
        or headers.get("cache-control") == NO_STORE["cache-control"]
        or headers.get("content-type", "").startswith("text/event-stream")
        or (tag := headers.get("etag")) is None
    ):
        return response
    return not_modified(tag) if is_unmodified(request.headers, tag) else response
