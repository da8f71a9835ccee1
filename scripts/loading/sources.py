"""Sources of conversations: the chitchat dataset, and files of JSON lines.

The key of a line is a digest of its text, with a number for equal lines. So if you correct one line, the other
lines are not loaded again.
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
from domain.items import InvalidItem, checked_item
from infrastructure.http.body import MAX_BODY_BYTES, parse_json
from infrastructure.http.errors import ApiError

MAX_LINE_BYTES = 256 * 1024 * 1024
MAX_ITEM_BYTES = MAX_BODY_BYTES - 1000
"""1,000 bytes are left for the rest of the request body."""


class Conversation(Struct, frozen=True):
    """A conversation to load. `fields`: the create request without its items. `origin`: for error messages."""

    key: str
    fields: dict[str, Any]
    items: list[dict[str, Any]]
    origin: str


class BadLine(Exception):
    """A line is not a conversation that the store accepts."""

    def __init__(self, origin: str, problem: str) -> None:
        super().__init__(f"{origin}: {problem}")


class SourceNotFound(Exception):
    """There is no source of this name, or the package of its data is not installed."""


class Source(Protocol):
    """Conversations to load. `name` is part of every idempotency key. `total` also counts bad lines."""

    name: str
    total: int

    def __iter__(self) -> Iterator[Conversation | BadLine]: ...


def open_source(name: str) -> Source:
    """`chitchat`, or the file of this path. Raises SourceNotFound."""
    if name == Chitchat.name:
        return Chitchat()
    path = Path(name)
    if not path.is_file():
        raise SourceNotFound(f"{name} is neither {Chitchat.name!r} nor a file.")
    return JsonLines(path)


class _Message(Struct):
    text: str
    sender: str


class _Dialogue(Struct):
    start: str
    messages: list[list[_Message]]
    prompt: str | None = None
    ratings: dict[str, int] | None = None


class Chitchat:
    """The dialogues of the dataset. The first speaker becomes the user."""

    name = "chitchat"

    def __init__(self) -> None:
        spec = importlib.util.find_spec("chitchat_dataset")
        if spec is None or not spec.submodule_search_locations:
            raise SourceNotFound("The package chitchat-dataset is not installed. Install the extra `dev`.")
        dataset = (Path(spec.submodule_search_locations[0]) / "dataset.json").read_bytes()  # 40 MB
        self._dialogues = msgspec.json.decode(dataset, type=dict[str, msgspec.Raw])
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


class JsonLines:
    """A file with one conversation in each line. Blank lines are skipped."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = quote(path.name, safe="")[-100:]  # it becomes part of a header
        with path.open("rb") as file:
            self.total = sum(1 for line in file if line.strip())

    def __iter__(self) -> Iterator[Conversation | BadLine]:
        seen: Counter[bytes] = Counter()
        with self._path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES):
                number += 1
                origin = f"{self._path} line {number}"
                if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
                    while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                        continue
                    yield BadLine(origin, f"it is longer than {MAX_LINE_BYTES} bytes.")
                elif line := line.strip():
                    digest = hashlib.sha256(line).digest()[:16]
                    seen[digest] += 1
                    yield _from_line(line, origin, f"{digest.hex()}-{seen[digest]}")


def _from_line(line: bytes, origin: str, key: str) -> Conversation | BadLine:
    try:
        fields = parse_json(line)
        if not isinstance(fields, dict):
            return BadLine(origin, "it is not a JSON object.")
        items = fields.pop("items", None) or []
        CreateConversation.model_validate(fields)
        if not isinstance(items, list):
            return BadLine(origin, "`items` is not a list.")
        for index, item in enumerate(items):
            checked_item(item)
            if len(msgspec.json.encode(item)) > MAX_ITEM_BYTES:
                return BadLine(origin, f"`items[{index}]` is larger than {MAX_ITEM_BYTES} bytes.")
    except ApiError as error:
        return BadLine(origin, error.message)
    except ValidationError as error:
        first = error.errors()[0]
        return BadLine(origin, f"`{'.'.join(map(str, first['loc']))}`: {first['msg']}.")
    except InvalidItem as error:
        return BadLine(origin, f"`items[{index}]{error.param and '.'}{error.param}`: {error}")
    return Conversation(key, fields, items, origin)
