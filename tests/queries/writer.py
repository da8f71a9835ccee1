"""Writes conversations, items and replies through the real event log, as the command side does."""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import structs

from domain.commands import (
    AppendItems,
    Command,
    CompactContext,
    CompleteReply,
    DeleteConversation,
    DescribeConversation,
    EndConversation,
    FailReply,
    NewItem,
    RedoCompaction,
    RequestReply,
    RetractItem,
    StartConversation,
    UndoCompaction,
)
from domain.events import InputItem, Leaf, SentSequence, Shown, Timing, Transcript, Usage
from infrastructure.access.principal import SCOPES, Principal
from infrastructure.event_log.append_request import Appended, AppendRequest
from infrastructure.event_log.log import EventLog
from infrastructure.ids import mint, mint_uuid

SHOWN = Shown(
    version=1, ranges=(), budget=100, tokens=10, encoding="o200k_base", renderer=1, request_sha256=bytes(range(32))
)


def body(text: str, role: str = "user") -> bytes:
    return msgspec.json.encode({"type": "message", "role": role, "content": text})


def new_items(texts: Sequence[str], role: str = "user") -> tuple[NewItem, ...]:
    return tuple(NewItem(item_id=mint("msg"), item=body(text, role)) for text in texts)


class Writer:
    def __init__(self, log: EventLog, tenant: str = "default", subject: str = "someone") -> None:
        self._log = log
        self._tenant = tenant
        self._subject = subject

    def for_tenant(self, tenant: str) -> "Writer":
        return Writer(self._log, tenant)

    def for_subject(self, subject: str) -> "Writer":
        return Writer(self._log, self._tenant, subject)

    async def execute(self, conversation_id: str, command: Command) -> Appended:
        request = AppendRequest(
            principal=Principal(self._tenant, self._subject, SCOPES),
            conversation_id=conversation_id,
            command=command,
            command_id=mint_uuid(),
            correlation_id="test",
        )
        return await self._log.append(request)

    async def start(self, *texts: str, conversation_id: str = "", **fields: Any) -> str:
        """Returns the conversation's id."""
        conversation_id = conversation_id or mint("conv")
        start = {"owner": self._subject, "items": new_items(texts), **fields}
        await self.execute(
            conversation_id, StartConversation(conversation_id=conversation_id, tenant=self._tenant, **start)
        )
        return conversation_id

    async def append(self, conversation_id: str, *texts: str) -> list[str]:
        """Returns the messages' ids."""
        items = new_items(texts)
        await self.execute(conversation_id, AppendItems(items=items, author="someone"))
        return [item.item_id for item in items]

    async def retract(self, conversation_id: str, item_id: str) -> Appended:
        return await self.execute(conversation_id, RetractItem(item_id=item_id))

    async def compact(
        self,
        conversation_id: str,
        last: str,
        depth: int,
        text: str = "They talked.",
        cost: int | None = 7_000,
        *,
        branch: int = 0,
        originals: tuple[str, ...] = (),
    ) -> Appended:
        """Summarizes the items up to `last`."""
        command = CompactContext(
            compaction_id=mint("cmp"),
            summary=text,
            first=last,
            last=last,
            branch=branch,
            depth=depth,
            count=depth,
            tokens_before=100,
            tokens_after=5,
            model="smol",
            read_version=await self._version(conversation_id),
            usage=Usage(input_tokens=90, output_tokens=5),
            cost=cost,
            originals=originals,
        )
        return await self.execute(conversation_id, command)

    async def undo(self, conversation_id: str, summary: int, active: int = 0) -> Appended:
        """`summary`, `active`: versions of summaries."""
        version = await self._version(conversation_id)
        return await self.execute(conversation_id, UndoCompaction(undone=summary, active=active, read_version=version))

    async def redo(self, conversation_id: str, summary: int) -> Appended:
        version = await self._version(conversation_id)
        return await self.execute(conversation_id, RedoCompaction(active=summary, read_version=version))

    async def _version(self, conversation_id: str) -> int:
        return (await self.execute(conversation_id, DescribeConversation())).version

    async def end(self, conversation_id: str) -> Appended:
        return await self.execute(conversation_id, EndConversation())

    async def delete(self, conversation_id: str) -> Appended:
        return await self.execute(conversation_id, DeleteConversation())

    async def request_reply(
        self,
        conversation_id: str,
        *texts: str,
        transcript: Transcript | None = None,
        lists: bool = False,
        model: str = "smol",
        shown: Shown = SHOWN,
        after: Leaf | None = None,
        **parameters: Any,
    ) -> tuple[str, tuple[InputItem, ...]]:
        """Returns the response's id and the messages. `transcript`: for a chat completion."""
        response_id = mint("resp")
        input_items = tuple(InputItem(item_id=mint("msg"), item=body(text)) for text in texts)
        request = RequestReply(
            response_id=response_id,
            model=model,
            parameters=msgspec.json.encode(parameters),
            input=input_items,
            shown=shown,
            transcript=transcript,
            lists=lists,
            after=after,
        )
        await self.execute(conversation_id, request)
        return response_id, input_items

    async def send_sequence(self, conversation_id: str, model: str, sequence: SentSequence) -> None:
        """Requests a reply that sends this sequence, and lets the reply fail."""
        response_id, _ = await self.request_reply(
            conversation_id, "?", model=model, shown=structs.replace(SHOWN, version=0, sequence=sequence)
        )
        await self.fail_reply(conversation_id, response_id)

    async def complete_reply(
        self,
        conversation_id: str,
        response_id: str,
        input_items: tuple[InputItem, ...],
        *texts: str,
        finish: str = "stop",
        model: str = "smol-1",
    ) -> tuple[NewItem, ...]:
        """Returns the messages."""
        output = new_items(texts, "assistant")
        completed = CompleteReply(
            response_id=response_id,
            model=model,
            author=model,
            input=input_items,
            output=output,
            usage=Usage(input_tokens=7, output_tokens=5, cached_tokens=2),
            finish_reason=finish,
            timing=Timing(first_ms=1, total_ms=2),
        )
        await self.execute(conversation_id, completed)
        return output

    async def complete_chat(self, conversation_id: str, question: str, answer: str, **parameters: Any) -> str:
        """Returns the id of the response."""
        transcript = Transcript()
        response_id, questions = await self.request_reply(
            conversation_id, question, transcript=transcript, **parameters
        )
        await self.complete_reply(conversation_id, response_id, questions, answer)
        return response_id

    async def reply(self, conversation_id: str) -> None:
        response_id, input_items = await self.request_reply(conversation_id, "?")
        await self.complete_reply(conversation_id, response_id, input_items, "!")

    async def fail_reply(self, conversation_id: str, response_id: str) -> Appended:
        return await self.execute(
            conversation_id, FailReply(response_id=response_id, code="model_error", message="It did not answer.")
        )
