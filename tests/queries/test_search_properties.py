"""A random search finds exactly the messages that a comparison with every message finds."""

import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import httpx
import pytest
from msgspec import Struct

from domain.commands import ShareConversation, UnshareConversation
from domain.events import Share
from infrastructure.settings import Settings
from queries.search_matches import MAX_COMPARED_RANKED
from tests.principals import HeaderAuthenticator, headers_of
from tests.queries.conftest import open_api
from tests.queries.manual_projector import ManualProjector
from tests.queries.writer import Writer

WORDS: dict[str, tuple[str, ...]] = {
    "green": ("green", "GREEN", "Green", "\uff47\uff52\uff45\uff45\uff4e"),
    "greenland": ("Greenland", "greenland"),
    "tea": ("tea", "Tea"),
    "i": ("I", "i"),
    "strasse": ("Straße", "STRASSE", "strasse"),
    "uber": ("über", "Über", "u\u0308ber"),
    "istanbul": ("İstanbul", "istanbul", "ISTANBUL"),
    "naif": ("naïf", "NAÏF"),
    "мир": ("мир", "МИР", "Мир"),
    "елка": ("ёлка", "Ёлка", "елка"),
    "οδοσ": ("οδός", "ΟΔΟΣ", "οδοσ"),
    "محمد": ("محمد", "مُحَمَّد"),
    "احمد": ("أحمد", "احمد"),
    "हिन्दी": ("हिन्दी",),
    "हिन्दु": ("हिन्दु",),
    "학교": ("학교",),
    "학교에": ("학교에",),
    "👍": ("👍", "👍🏽"),
}
"""Folded word -> how the word is written."""

RUNS = (
    "东京大学的学生",
    "大学生喜欢喝茶",
    "東京都に行きたい",
    "ガギグゲゴ",
    "カキクケコ",
    "ภาษาไทยดีมาก",
    "ไทยแลนด์",
    "茶",
    "喝茶吗",
)
SEPARATORS = (" ", ", ", "\n", " - ", "! ")
SUBJECTS = ("ann", "ben", "eve")

Element = tuple[str, bool]
"""(folded word, False), or (run of characters without spaces, True)."""


class Message(Struct, frozen=True):
    owner: str
    conversation_id: str
    item_id: str
    elements: tuple[Element, ...]


class Part(Struct, frozen=True):
    """A part of a query.

    `q`: how the part is written. `matches`: whether a message has the part.
    """

    q: str
    matches: Callable[[Message], bool]


class Store:
    """Writes random messages, and keeps the messages and the readers of each conversation."""

    def __init__(self, rng: random.Random, write: Writer) -> None:
        self.rng = rng
        self._write = write
        self.messages: list[Message] = []
        self.conversations: dict[str, str] = {}
        self.readers: dict[str, set[str]] = {}

    async def fill(self, conversations: int, messages: int) -> None:
        for number in range(conversations):
            owner = SUBJECTS[number % len(SUBJECTS)]
            writer = self._write.for_subject(owner)
            conversation_id = await writer.start()
            self.readers[conversation_id] = {owner, "root"}
            elements = [self._elements() for _ in range(messages)]
            item_ids = await writer.append(conversation_id, *map(self._written, elements))
            for item_id, words in zip(item_ids, elements, strict=True):
                self.messages.append(Message(owner, conversation_id, item_id, words))
            await self._change(writer, conversation_id, number)

    async def _change(self, writer: Writer, conversation_id: str, number: int) -> None:
        """Retracts the last message. Some conversations are also shared, unshared or deleted."""
        if number % 3 == 1:
            await writer.execute(conversation_id, ShareConversation(share=Share(role="reader", subject="eve")))
            self.readers[conversation_id].add("eve")
        if number % 6 == 1:
            await writer.execute(conversation_id, UnshareConversation(subject="eve"))
            self.readers[conversation_id].discard("eve")
        retracted = self.messages.pop()
        await writer.retract(conversation_id, retracted.item_id)
        if number % 10 == 9:
            await writer.delete(conversation_id)
            self.messages = [each for each in self.messages if each.conversation_id != conversation_id]

    def _elements(self) -> tuple[Element, ...]:
        """No run directly follows another run."""
        elements: list[Element] = []
        for _ in range(self.rng.randint(1, 7)):
            if self.rng.random() < 0.3 and not (elements and elements[-1][1]):
                elements.append((self.rng.choice(RUNS), True))
            else:
                elements.append((self.rng.choice([*WORDS]), False))
        return tuple(elements)

    def _written(self, elements: tuple[Element, ...]) -> str:
        return self.rng.choice(SEPARATORS).join(self._form(*piece) for piece in elements)

    def _form(self, text: str, is_run: bool) -> str:
        return text if is_run else self.rng.choice(WORDS[text])

    def part(self) -> Part:
        match self.rng.choice(("word", "word", "phrase", "prefix", "run", "run")):
            case "word":
                word = self.rng.choice([*WORDS])
                return Part(self._form(word, False), lambda message: (word, False) in message.elements)
            case "phrase":
                pair = self._adjacent_words()
                return Part(f'"{self._written(pair)}"', lambda message: pair in pairwise(message.elements))
            case "prefix":
                word = self.rng.choice([word for word in WORDS if word.isascii() or word[0] == "학"])
                prefix = word[: self.rng.randint(1, len(word))]
                return Part(
                    f"{prefix}*",
                    lambda message: any(text.startswith(prefix) and not run for text, run in message.elements),
                )
            case _:
                run = self.rng.choice(RUNS)
                start = self.rng.randrange(len(run))
                part = run[start : start + self.rng.randint(1, 4)]
                return Part(part, lambda message: any(run and part in text for text, run in message.elements))

    def _adjacent_words(self) -> tuple[Element, Element]:
        pairs = [
            (first, second)
            for message in self.rng.sample(self.messages, min(50, len(self.messages)))
            for first, second in pairwise(message.elements)
            if not first[1] and not second[1]
        ]
        return self.rng.choice(pairs)


async def all_hits(api: httpx.AsyncClient, q: str, subject: str, limit: int) -> list[dict[str, Any]]:
    hits: list[dict[str, Any]] = []
    parameters: dict[str, Any] = {"q": q, "limit": limit}
    scopes = ("admin",) if subject == "root" else ()
    while True:
        answer = await api.get("/v1/search", params=parameters, headers=headers_of(subject, *scopes))
        assert answer.status_code == 200, answer.text
        page = answer.json()
        hits += page["data"]
        assert page["has_more"] == (page["next_cursor"] is not None)
        if not page["has_more"]:
            return hits
        parameters["after"] = page["next_cursor"]


@pytest.mark.parametrize(
    ("conversations", "messages", "queries"), [(12, 20, 40), pytest.param(60, 100, 500, marks=pytest.mark.endless)]
)
async def test_a_search_finds_what_a_comparison_of_all_messages_finds(
    settings: Settings, write: Writer, projector: ManualProjector, *, conversations: int, messages: int, queries: int
) -> None:
    rng = random.Random(20)
    store = Store(rng, write)
    await store.fill(conversations, messages)
    await write.for_tenant("other").start("green tea", "东京大学的学生")
    await projector.catch_up()
    found = 0
    async with open_api(settings, authenticator=HeaderAuthenticator()) as api:
        for _ in range(queries):
            wanted = [store.part() for _ in range(rng.choice((1, 1, 2, 3)))]
            unwanted = [store.part() for _ in range(rng.choice((0, 0, 1)))]
            q = " ".join([*(part.q for part in wanted), *(f"-{part.q}" for part in unwanted)])
            subject = rng.choice((*SUBJECTS, "root"))
            expected = {
                message.item_id
                for message in store.messages
                if subject in store.readers[message.conversation_id]
                and all(part.matches(message) for part in wanted)
                and not any(part.matches(message) for part in unwanted)
            }
            limit = rng.choice((7, 100)) if len(expected) < 200 else 100
            hits = await all_hits(api, q, subject, limit)
            assert sorted(hit["item"] for hit in hits) == sorted(expected), (q, subject)
            if len(hits) <= MAX_COMPARED_RANKED and len(store.messages) < 2_000:
                assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
            assert all(hit["highlights"] for hit in hits)
            found += len(hits)
    assert found > queries
