"""Contents that come with a request and are not stored."""

import tempfile
import weakref
from collections.abc import Mapping
from typing import IO, Final

from domain.content_references import ROW_BYTES
from infrastructure.contents.staged_content import no_space

MAX_MEMORY_BYTES: Final = 1024 * 1024
"""More than this is on disk, because a reply keeps its contents until it ends."""


class GivenContents:
    """The contents of one request, by their SHA-256."""

    def __init__(self) -> None:
        self._spans: dict[bytes, tuple[int, int]] = {}
        self._end = 0
        self._file: IO[bytes] | None = None

    def add(self, contents: Mapping[bytes, bytes]) -> None:
        """Raises NoSpace."""
        if self._file is None:
            self._file = tempfile.SpooledTemporaryFile(MAX_MEMORY_BYTES)  # noqa: SIM115 - closed with this object
            weakref.finalize(self, self._file.close)
        with no_space():
            self._file.seek(self._end)
            for sha256, data in contents.items():
                self._file.write(data)
                self._spans[sha256] = (self._end, len(data))
                self._end += len(data)
            self._file.flush()

    def __contains__(self, sha256: bytes) -> bool:
        return sha256 in self._spans

    def row(self, sha256: bytes, number: int) -> bytes | None:
        """As `Reader.content_row`."""
        assert self._file is not None
        start, size = self._spans[sha256]
        before = number * ROW_BYTES
        self._file.seek(start + before)
        return self._file.read(max(0, min(ROW_BYTES, size - before))) or None
