"""Sends a source's conversations to the command side: each in order, many at a time, all of it repeatable."""

import asyncio
from collections.abc import Iterator
from itertools import islice

import msgspec
from msgspec import Struct

from commands.bodies import MAX_ITEMS
from infrastructure.http.shapes import json_array
from scripts.loading.finished import Finished, Line
from scripts.loading.sender import Patience, RefusedForGood, Sender
from scripts.loading.sources import MAX_ITEM_BYTES, BadLine, Conversation, Source
from scripts.progress import Report


class Loaded(Struct):
    """What a load did. `there_before`: conversations that an earlier run had finished, or of which all was sent again in vain."""

    conversations: int = 0
    messages: int = 0
    there_before: int = 0
    messages_there_before: int = 0
    skipped: int = 0
    retries: int = 0


class Loader:
    """One load. `problems` are told what is skipped; without `skip_bad`, the first one stops the load after what came before."""

    def __init__(self, base_url: str, source: Source, finished: Finished, *, skip_bad: bool, limit: int | None) -> None:
        self._base_url = base_url
        self._source = source
        self._finished = finished
        self._skip_bad = skip_bad
        self._limit = limit
        self._total = source.total if limit is None else min(source.total, limit)
        self._patience = Patience()
        self._stopped_by: Exception | None = None
        self.loaded = Loaded()
        self.problems: list[BadLine] = []
        self.unwanted: set[str] = set()
        """The keys of conversations that the store refused."""

    async def run(self, connections: int, report: Report) -> Loaded:
        """Raises BadLine, GaveUp; what was finished by then is on record."""
        await self._trust_or_forget()
        conversations = self._conversations()
        workers = [asyncio.create_task(self._work(conversations, report)) for _ in range(connections)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            self.loaded.retries = self._patience.retries
        if self._stopped_by is not None:
            raise self._stopped_by
        return self.loaded

    async def _trust_or_forget(self) -> None:
        """Sends the conversation finished last again: only a store that has it answers as it did."""
        order = {key: place for place, key in enumerate(self._finished.by_key)}
        known = (it for it in self._source if isinstance(it, Conversation) and it.key in order)
        last = max(known, key=lambda it: order[it.key], default=None)
        if last is None:
            return
        sender = Sender(self._base_url, self._patience)
        try:
            conversation_id, replayed = await self._send(sender, last)
        except RefusedForGood:
            self._finished.forget()
            return
        finally:
            sender.close()
        if not replayed or conversation_id != self._finished.by_key[last.key].id:
            self._finished.forget()

    def _conversations(self) -> Iterator[Conversation | BadLine]:
        """What to load, in order; shared by all workers. Ends after the first bad one unless those are skipped."""
        for it in islice(self._source, self._limit):
            if self._stopped_by is not None:
                return
            yield it

    async def _work(self, conversations: Iterator[Conversation | BadLine], report: Report) -> None:
        sender = Sender(self._base_url, self._patience)
        try:
            for it in conversations:
                if isinstance(it, BadLine):
                    self._bad(it)
                elif (line := self._finished.by_key.get(it.key)) is not None:
                    self._count(line.messages, before=True)
                else:
                    await self._store(sender, it)
                done = self.loaded
                report(done.conversations + done.there_before + done.skipped, self._total)
        except Exception as error:  # noqa: BLE001 - kept for `run`, which raises it; the other workers must hear of it
            self._stopped_by = self._stopped_by or error
        finally:
            sender.close()

    async def _store(self, sender: Sender, conversation: Conversation) -> None:
        try:
            conversation_id, replayed = await self._send(sender, conversation)
        except RefusedForGood as refused:
            self.unwanted.add(conversation.key)
            self._bad(BadLine(conversation.where, str(refused)))
            return
        messages = len(conversation.items)
        self._finished.add(Line(conversation.key, conversation_id, messages))
        self._count(messages, before=replayed)

    async def _send(self, sender: Sender, conversation: Conversation) -> tuple[str, bool]:
        """The conversation's id, and whether the store had all of it already."""
        about = msgspec.json.encode(conversation.about)
        first, *rest = chunks([msgspec.json.encode(item) for item in conversation.items], MAX_ITEM_BYTES - len(about))
        key = f"load:{self._source.name}:{conversation.key}"
        comma = b"" if about == b"{}" else b","
        body = about[:-1] + comma + b'"items":' + json_array(first) + b"}"
        answer = await sender.post("/v1/conversations", body, f"{key}:0")
        conversation_id = str(answer.json()["id"])
        replayed = not sender.stored
        for number, chunk in enumerate(rest, 1):
            body = b'{"items":' + json_array(chunk) + b"}"
            await sender.post(f"/v1/conversations/{conversation_id}/items", body, f"{key}:{number}")
            replayed &= not sender.stored
        return conversation_id, replayed

    def _bad(self, problem: BadLine) -> None:
        self.loaded.skipped += 1
        self.problems.append(problem)
        if not self._skip_bad:
            self._stopped_by = self._stopped_by or problem

    def _count(self, messages: int, *, before: bool) -> None:
        if before:
            self.loaded.there_before += 1
            self.loaded.messages_there_before += messages
        else:
            self.loaded.conversations += 1
            self.loaded.messages += messages


def chunks(items: list[bytes], first_bytes: int) -> list[list[bytes]]:
    """The items in requests' worths, in order: MAX_ITEMS and MAX_ITEM_BYTES bytes each, the first one `first_bytes`, which may be none."""
    parts: list[list[bytes]] = [[]]
    room = first_bytes
    for item in items:
        if len(parts[-1]) == MAX_ITEMS or len(item) > room:
            parts.append([])
            room = MAX_ITEM_BYTES
        parts[-1].append(item)
        room -= len(item) + 1
    return parts
