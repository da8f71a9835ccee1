"""What of a source is in the store already: DIR/load/<source>.jsonl, one finished conversation a line. A shortcut only.

Without it (or with less of it than there was) a load sends everything again, and the store answers what it answered the
first time. So that the file of one store is never believed for another, `Loader` sends its last conversation again.
"""

from pathlib import Path
from typing import Self, TextIO

import msgspec
from msgspec import Struct


class Line(Struct, frozen=True):
    key: str
    id: str
    messages: int


class Finished:
    """The file, and what it says. Open it as a context manager."""

    def __init__(self, data: Path, source: str) -> None:
        self._path = data / "load" / f"{source}.jsonl"
        self._file: TextIO | None = None
        self.by_key: dict[str, Line] = {}

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        whole = b""
        if self._path.exists():
            written = self._path.read_bytes()
            whole = written[: written.rfind(b"\n") + 1]  # a killed load may have left half a line
        self.by_key = {line.key: line for line in msgspec.json.Decoder(Line).decode_lines(whole)}
        self._file = self._path.open("r+" if self._path.exists() else "w", encoding="utf-8")
        self._file.truncate(len(whole))
        self._file.seek(0, 2)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._file is not None
        self._file.close()

    def add(self, line: Line) -> None:
        """Puts it on the file, at once."""
        assert self._file is not None
        self.by_key[line.key] = line
        self._file.write(msgspec.json.encode(line).decode() + "\n")
        self._file.flush()

    def forget(self) -> None:
        """It was about another store."""
        assert self._file is not None
        self.by_key = {}
        self._file.seek(0)
        self._file.truncate()
