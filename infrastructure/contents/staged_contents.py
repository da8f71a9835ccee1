"""Keeps the contents of one request until they are stored, or until its reply has ended."""

import weakref
from collections.abc import Iterator
from os import SEEK_END
from tempfile import SpooledTemporaryFile
from typing import Final

from domain.content_references import ROW_BYTES
from infrastructure.contents.staged_content import no_space

MAX_MEMORY_BYTES: Final = 256 * 1024
"""More is on disk, in a file without a name."""


class StagedContents:
    """Contents by their SHA-256."""

    def __init__(self) -> None:
        self._file = SpooledTemporaryFile(MAX_MEMORY_BYTES)  # noqa: SIM115 - closed with this object
        self._extents: dict[bytes, tuple[int, int]] = {}
        self.close = weakref.finalize(self, self._file.close)

    @property
    def sizes(self) -> dict[bytes, int]:
        return {sha256: size for sha256, (_, size) in self._extents.items()}

    def add(self, sha256: bytes, data: bytes) -> None:
        """Raises NoSpace."""
        if sha256 in self._extents:
            return
        with no_space():
            start = self._file.seek(0, SEEK_END)
            if start + len(data) > MAX_MEMORY_BYTES:
                self._file.rollover()
            self._file.write(data)
            self._file.flush()
        self._extents[sha256] = start, len(data)

    def row(self, sha256: bytes, number: int) -> bytes | None:
        """As `content_row` of a reader. None if the content is not here."""
        start, size = self._extents.get(sha256, (0, 0))
        if number * ROW_BYTES >= size:
            return None
        self._file.seek(start + number * ROW_BYTES)
        return self._file.read(min(ROW_BYTES, size - number * ROW_BYTES))

    def rows(self, sha256: bytes) -> Iterator[bytes]:
        number = 0
        while (row := self.row(sha256, number)) is not None:
            yield row
            number += 1
