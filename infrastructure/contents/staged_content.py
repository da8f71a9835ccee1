"""Keeps a content on disk while it arrives, because its hash must be known before it is stored."""

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from infrastructure.contents.media_types import HEAD_BYTES
from infrastructure.disk_space import no_space


class StagedContent:
    """`file`: receives the bytes. `head`: the first HEAD_BYTES."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.size = 0
        self.head = b""

    @property
    def sha256(self) -> bytes:
        return self._hash.digest()

    def write(self, data: bytes | memoryview) -> None:
        """Raises NoSpace."""
        with no_space():
            self._file.write(data)
        self._hash.update(data)
        self.size += len(data)
        if len(self.head) < HEAD_BYTES:
            self.head += bytes(data[: HEAD_BYTES - len(self.head)])

    def rows(self, row_bytes: int) -> Iterator[bytes]:
        """The content in parts of `row_bytes`; the last one may be shorter. Raises NoSpace."""
        with no_space():
            self._file.seek(0)  # writes what the file object still holds
        while row := self._file.read(row_bytes):
            yield row


@contextmanager
def staged_content() -> Iterator[StagedContent]:
    """The file has no name, so it is also gone if the process dies."""
    with tempfile.TemporaryFile() as file:
        yield StagedContent(file)
