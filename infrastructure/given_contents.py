"""Contents that come with a request, until they are stored or sent."""

import tempfile
import weakref
from collections.abc import Iterator
from typing import IO, Final

from domain.content_references import ROW_BYTES
from infrastructure.disk_space import no_space

MAX_MEMORY_BYTES: Final = 1024 * 1024
"""More than this is on disk, because a slow database or model keeps requests waiting."""


class GivenContents:
    """The contents of one request, by their SHA-256."""

    def __init__(self) -> None:
        self.sizes: dict[bytes, int] = {}
        self._starts: dict[bytes, int] = {}
        self._end = 0
        self._file: IO[bytes] | None = None

    def add(self, sha256: bytes, data: bytes) -> None:
        """Raises NoSpace."""
        if sha256 in self.sizes:
            return
        if self._file is None:
            self._file = tempfile.SpooledTemporaryFile(MAX_MEMORY_BYTES)  # noqa: SIM115 - closed with this object
            weakref.finalize(self, self._file.close)
        with no_space():
            self._file.seek(self._end)
            self._file.write(data)
            self._file.flush()
        self.sizes[sha256], self._starts[sha256] = len(data), self._end
        self._end += len(data)

    def __contains__(self, sha256: bytes) -> bool:
        return sha256 in self.sizes

    def row(self, sha256: bytes, number: int) -> bytes | None:
        """As `Reader.content_row`."""
        assert self._file is not None
        before = number * ROW_BYTES
        self._file.seek(self._starts[sha256] + before)
        return self._file.read(max(0, min(ROW_BYTES, self.sizes[sha256] - before))) or None

    def rows(self, sha256: bytes) -> Iterator[bytes]:
        number = 0
        while (row := self.row(sha256, number)) is not None:
            yield row
            number += 1
