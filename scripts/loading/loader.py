"""Sends the conversations of a source to the command API. Sends many conversations at the same time, but the items of
each conversation in order.
"""

import asyncio
from collections.abc import Iterator, Mapping
from itertools import islice

import msgspec
from msgspec import Struct

from commands.bodies import MAX_ITEMS
from infrastructure.http.shapes import json_array
from scripts.loading.progress_file import ProgressFile, StoredConversation
from scripts.loading.retrying_client import RequestRejected, RetryBudget, RetryingClient
from scripts.loading.sources import MAX_ITEM_BYTES, BadLine, Conversation, Source
from scripts.progress import Report


class LoadCounts(Struct):
    """What a run has done. `already_stored`: conversations that were in the store before this run."""

    conversations: int = 0
    messages: int = 0
    already_stored: int = 0
    messages_already_stored: int = 0
    skipped: int = 0
    retries: int = 0


class Loader:
    """Sends the conversations of one source.

    `problems` lists what was skipped. Without `skip_bad`, the first problem ends the run.
    """

    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, str],
        source: Source,
        progress_file: ProgressFile,
        *,
        skip_bad: bool,
        limit: int | None,
    ) -> None:
        self._base_url = base_url
        self._headers = headers
        self._source = source
        self._progress_file = progress_file
        self._skip_bad = skip_bad
        self._limit = limit
        self._total = source.total if limit is None else min(source.total, limit)
        self._budget = RetryBudget()
        self._error: Exception | None = None
        self.counts = LoadCounts()
        self.problems: list[BadLine] = []
        self.rejected_keys: set[str] = set()

    async def run(self, connections: int, report: Report) -> LoadCounts:
        """Raises BadLine, CredentialRefused and RetriesExhausted."""
        await self._check_progress_file()
        conversations = self._conversations()
        workers = [asyncio.create_task(self._work(conversations, report)) for _ in range(connections)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            self.counts.retries = self._budget.retries
        if self._error is not None:
            raise self._error
        return self.counts

    async def _check_progress_file(self) -> None:
        """Clears the progress file if it may belong to another store.

        Sends the last conversation of the file again. Only the store that has this conversation replays the same id.
        """
        order = {key: index for index, key in enumerate(self._progress_file.by_key)}
        stored = (entry for entry in self._source if isinstance(entry, Conversation) and entry.key in order)
        last = max(stored, key=lambda conversation: order[conversation.key], default=None)
        if last is None:
            return
        client = RetryingClient(self._base_url, self._budget, self._headers)
        try:
            conversation_id, replayed = await self._send(client, last)
        except RequestRejected:
            self._progress_file.clear()
            return
        finally:
            client.close()
        if not replayed or conversation_id != self._progress_file.by_key[last.key].id:
            self._progress_file.clear()

    def _conversations(self) -> Iterator[Conversation | BadLine]:
        """All workers share this iterator. It ends after the first error."""
        for entry in islice(self._source, self._limit):
            if self._error is not None:
                return
            yield entry

    async def _work(self, conversations: Iterator[Conversation | BadLine], report: Report) -> None:
        client = RetryingClient(self._base_url, self._budget, self._headers)
        try:
            for entry in conversations:
                if isinstance(entry, BadLine):
                    self._add_problem(entry)
                elif (stored := self._progress_file.by_key.get(entry.key)) is not None:
                    self._count(stored.messages, already_stored=True)
                else:
                    await self._store(client, entry)
                counts = self.counts
                report(counts.conversations + counts.already_stored + counts.skipped, self._total)
        except Exception as error:  # noqa: BLE001 - `run` raises it, after the other workers have stopped
            self._error = self._error or error
        finally:
            client.close()

    async def _store(self, client: RetryingClient, conversation: Conversation) -> None:
        try:
            conversation_id, replayed = await self._send(client, conversation)
        except RequestRejected as rejected:
            self.rejected_keys.add(conversation.key)
            self._add_problem(BadLine(conversation.origin, str(rejected)))
            return
        messages = len(conversation.items)
        self._progress_file.add(StoredConversation(conversation.key, conversation_id, messages))
        self._count(messages, already_stored=replayed)

    async def _send(self, client: RetryingClient, conversation: Conversation) -> tuple[str, bool]:
        """Returns the id, and whether the store certainly had all of the conversation before."""
        fields = msgspec.json.encode(conversation.fields)
        first, *rest = chunks([msgspec.json.encode(item) for item in conversation.items], MAX_ITEM_BYTES - len(fields))
        key = f"load:{self._source.name}:{conversation.key}"
        comma = b"" if fields == b"{}" else b","
        body = fields[:-1] + comma + b'"items":' + json_array(first) + b"}"
        answer = await client.post("/v1/conversations", body, f"{key}:0")
        conversation_id = str(answer.json()["id"])
        replayed = not client.may_have_stored
        for number, chunk in enumerate(rest, 1):
            body = b'{"items":' + json_array(chunk) + b"}"
            await client.post(f"/v1/conversations/{conversation_id}/items", body, f"{key}:{number}")
            replayed &= not client.may_have_stored
        return conversation_id, replayed

    def _add_problem(self, problem: BadLine) -> None:
        self.counts.skipped += 1
        self.problems.append(problem)
        if not self._skip_bad:
            self._error = self._error or problem

    def _count(self, messages: int, *, already_stored: bool) -> None:
        if already_stored:
            self.counts.already_stored += 1
            self.counts.messages_already_stored += messages
        else:
            self.counts.conversations += 1
            self.counts.messages += messages


def chunks(items: list[bytes], first_bytes: int) -> list[list[bytes]]:
    """Divides the items of a conversation into requests.

    A request has at most MAX_ITEMS items and MAX_ITEM_BYTES bytes. A larger item gets a request of its own. The first
    request has room for `first_bytes`, and may be empty.
    """
    parts: list[list[bytes]] = [[]]
    room = first_bytes
    for item in items:
        if len(parts[-1]) == MAX_ITEMS or len(item) > room:
            parts.append([])
            room = MAX_ITEM_BYTES
        parts[-1].append(item)
        room -= len(item) + 1
    return parts
