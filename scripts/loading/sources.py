"""What can be loaded: the chitchat dataset, and files with one conversation a line. Both are read as they are needed.

A conversation's `key` is the same in every run: requests are made repeatable with it. A line's key is a digest of the line, so
that mending one line of a file does not make new conversations of the others.
"""

import hashlib
import importlib.util
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import msgspec
from msgspec import Struct
from pydantic import ValidationError

from commands.conversations import CreateConversation
from domain.items import InvalidItem, check
from infrastructure.http.body import MAX_BODY_BYTES, parse
from infrastructure.http.errors import ApiError

MAX_LINE_BYTES = 256 * 1024 * 1024
MAX_ITEM_BYTES = MAX_BODY_BYTES - 1000
"""Bytes of JSON. What is left is for the request around it."""


class Conversation(Struct, frozen=True):
    """`about`: what a conversation begins with beside its items. `where`: for people, when something is wrong with it."""

    key: str
    about: dict[str, Any]
    items: list[dict[str, Any]]
    where: str


class BadLine(Exception):
    """A line that holds no conversation which the store could take."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(f"{where}: {what}")


class NotThere(Exception):
    """There is nothing of this name to load. The message says what to do."""


class Source(Protocol):
    """`name` is part of every request's key; a load of the same name goes on where an earlier one stopped."""

    name: str
    total: int

    def __iter__(self) -> Iterator[Conversation | BadLine]: ...


def named(what: str) -> Source:
    """The source that the command line names. Raises NotThere."""
    if what == Chitchat.name:
        return Chitchat()
    path = Path(what)
    if not path.is_file():
        raise NotThere(f"{what} is neither {Chitchat.name!r} nor a file")
    return Lines(path)


class _Message(Struct):
    text: str
    sender: str


class _Dialogue(Struct):
    start: str
    messages: list[list[_Message]]
    prompt: str | None = None
    ratings: dict[str, int] | None = None


class Chitchat:
    """The dataset of the package `chitchat-dataset`: 7,168 conversations of people. Who speaks first becomes the user."""

    name = "chitchat"

    def __init__(self) -> None:
        spec = importlib.util.find_spec("chitchat_dataset")
        if spec is None or not spec.submodule_search_locations:
            raise NotThere("the package chitchat-dataset is not installed: it comes with the extra `dev`")
        whole = (Path(spec.submodule_search_locations[0]) / "dataset.json").read_bytes()  # 40 MB
        self._dialogues = msgspec.json.decode(whole, type=dict[str, msgspec.Raw])
        self.total = len(self._dialogues)

    def __iter__(self) -> Iterator[Conversation | BadLine]:
        for key, raw in self._dialogues.items():
            yield _from_dialogue(key, msgspec.json.decode(raw, type=_Dialogue))


def _from_dialogue(key: str, dialogue: _Dialogue) -> Conversation:
    messages = [message for turn in dialogue.messages for message in turn]
    metadata = {"source": Chitchat.name, "key": key, "start": dialogue.start}
    if dialogue.ratings:
        metadata["ratings"] = ", ".join(f"{name} {rating}" for name, rating in dialogue.ratings.items())
    items = [
        {
            "type": "message",
            "role": "user" if message.sender == messages[0].sender else "assistant",
            "content": message.text,
        }
        for message in messages
    ]
    return Conversation(key, {"title": dialogue.prompt, "metadata": metadata}, items, f"chitchat {key}")


class Lines:
    """JSON lines: `{"metadata": {}, "title": …, "instructions": …, "items": […]}`, all of it optional. Blank lines are no lines.

    Every line is held against the store's own rules before anything of it is sent.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = quote(path.name, safe="")[-100:]  # fit for a header
        with path.open("rb") as file:
            self.total = sum(1 for line in file if line.strip())

    def __iter__(self) -> Iterator[Conversation | BadLine]:
        seen: Counter[bytes] = Counter()
        with self._path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES):
                number += 1
                where = f"{self._path} line {number}"
                if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
                    while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                        continue
                    yield BadLine(where, f"it is longer than {MAX_LINE_BYTES} bytes.")
                elif line := line.strip():
                    digest = hashlib.sha256(line).digest()[:16]
                    seen[digest] += 1
                    yield _from_line(line, where, f"{digest.hex()}-{seen[digest]}")


def _from_line(line: bytes, where: str, key: str) -> Conversation | BadLine:
    try:
        about = parse(line)
        if not isinstance(about, dict):
            return BadLine(where, "it is not a JSON object.")
        items = about.pop("items", None) or []
        CreateConversation.model_validate(about)
        if not isinstance(items, list):
            return BadLine(where, "`items` is not a list.")
        for index, item in enumerate(items):
            check(item)
            if len(msgspec.json.encode(item)) > MAX_ITEM_BYTES:
                return BadLine(where, f"`items[{index}]` is larger than {MAX_ITEM_BYTES} bytes.")
    except ApiError as error:
        return BadLine(where, error.message)
    except ValidationError as error:
        first = error.errors()[0]
        return BadLine(where, f"`{'.'.join(map(str, first['loc']))}`: {first['msg']}.")
    except InvalidItem as error:
        return BadLine(where, f"`items[{index}]{error.param and '.'}{error.param}`: {error}")
    return Conversation(key, about, items, where)
