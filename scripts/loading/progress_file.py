"""The progress file of a load: DIR/load/<source>.jsonl, one line for each conversation that the store has in full.

The file only saves time. Without the file, a load sends everything again.
"""

from pathlib import Path
from typing import Self, TextIO

import msgspec
from msgspec import Struct


class StoredConversation(Struct, frozen=True):
    key: str
    id: str
    messages: int


class ProgressFile:
    """The progress file of one source. `by_key` has the lines, oldest first."""

    def __init__(self, data: Path, source: str) -> None:
        self._path = data / "load" / f"{source}.jsonl"
        self._file: TextIO | None = None
        self.by_key: dict[str, StoredConversation] = {}

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        complete = b""
        if self._path.exists():
            content = self._path.read_bytes()
            complete = content[: content.rfind(b"\n") + 1]  # a killed load may have left half a line
        self.by_key = {line.key: line for line in msgspec.json.Decoder(StoredConversation).decode_lines(complete)}
        self._file = self._path.open("r+" if self._path.exists() else "w", encoding="utf-8")
        self._file.truncate(len(complete))
        self._file.seek(0, 2)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._file is not None
        self._file.close()

    def add(self, stored: StoredConversation) -> None:
        assert self._file is not None
        self.by_key[stored.key] = stored
        self._file.write(msgspec.json.encode(stored).decode() + "\n")
        self._file.flush()

    def clear(self) -> None:
        assert self._file is not None
        self.by_key = {}
        self._file.seek(0)
        self._file.truncate()
