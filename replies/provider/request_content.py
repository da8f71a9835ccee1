"""The body of a request as the official client takes it."""

from collections.abc import AsyncIterator, Mapping
from typing import Any, NoReturn

import msgspec

from context.inlined_contents import BodyWithContents, InlinedText


class StreamedContent:
    """Sends a text while it is made.

    `error`: why the text could not be made. The transport reports this as an error of the connection.
    """

    def __init__(self, text: InlinedText) -> None:
        self._text = text
        self.error: Exception | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._text:
                yield chunk
        except Exception as error:
            self.error = error
            raise

    # The client retries a request only if it can rewind the content like a file. Each iteration begins anew.

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return 0

    def seek(self, _: int) -> None:
        if self.error is not None:
            raise ValueError("no retry, because the text cannot be made")

    def read(self) -> NoReturn:
        raise NotImplementedError


def request_content(body: Mapping[str, Any]) -> tuple[bytes | StreamedContent, dict[str, str]]:
    """The content, and the headers for it. Without a length, it would be sent in chunks, which not all providers take."""
    if not isinstance(body, BodyWithContents):
        return msgspec.json.encode(body), {}  # the client's own encoder takes ten times as long
    text = InlinedText(body)
    return StreamedContent(text), {"Content-Length": str(text.length)}
