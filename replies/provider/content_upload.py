"""A body with images and files as the provider's client sends it."""

from collections.abc import AsyncIterator
from io import UnsupportedOperation

from context.inlined_contents import BodyWithContents


class ContentNotRead(Exception):
    """An image or file could not be read while it was sent. `error`: why."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


class ContentUpload:
    """The client makes a new iterator for each attempt, so a retry sends the whole body again.

    The client retries only bodies that it can seek in. `error`: why the contents could not be read. The client reports
    this as a lost connection.
    """

    def __init__(self, body: BodyWithContents) -> None:
        self._body = body
        self.size = body.size
        self.error: Exception | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._body:
                yield part
        except Exception as error:
            self.error = error
            raise

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return 0

    def seek(self, _: int) -> None:
        """Called before a retry. Raises ValueError if the contents could not be read."""
        if self.error is not None:
            raise ValueError("The contents could not be read.")

    def read(self, _: int = -1) -> bytes:
        """The client repeats only content that has this method. It does not call the method."""
        raise UnsupportedOperation("Iterate over the content.")
