"""`If-None-Match`: a read is answered with 304 if the client already has the answer.

The tag is the conversation's version. Answers that show items of other conversations have NO_STORE, because such an item may
be deleted while this version stays the same.
"""

from collections.abc import Mapping
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from infrastructure.http.headers import is_unmodified

HEADER = "if-none-match"
NO_STORE: Final[Mapping[str, str]] = {"cache-control": "no-store"}


class NotModified(Exception):
    """A handler raises this, and the route answers with 304."""

    def __init__(self, tag: str) -> None:
        super().__init__(tag)
        self.tag = tag


def not_modified(tag: str) -> Response:
    return Response(status_code=304, headers={"etag": tag, "vary": "Accept-Encoding"})


def check_header(request: Request) -> None:
    """Raises ApiError (400) if the header is malformed, even if the answer has no tag."""
    if HEADER in request.headers:
        is_unmodified(request.headers, "")


def unless_unmodified(request: Request, response: Response) -> Response:
    """The response, or a 304. Streams, and answers with `X-Consistency` or NO_STORE, are never a 304."""
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
