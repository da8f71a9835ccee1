"""A conversation's context: its newest items up to a budget, and the request a model is sent for them.

It comes from a snapshot where there is one of the right version, else from the log, read backwards from the head until
the budget is full: never from the read models, never by folding the whole conversation. Commands ask with it, queries show it.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from msgspec import UNSET, Struct

from domain.context import Candidate, newest_turns
from domain.errors import ContextTooLong
from domain.events import (
    DESCRIPTION,
    ContextPolicy,
    ConversationDescribed,
    ConversationStarted,
    ItemAppended,
    ItemRetracted,
    Shown,
    ShownRange,
)
from domain.items import Item, from_stored
from domain.rendering import CHAT, PER_MESSAGE_TOKENS, counted_text, fixed_tokens, render, request_sha256
from infrastructure.event_log.reader import Recorded
from infrastructure.model import Model
from infrastructure.tokens import count_off_loop, encoding_for

PAGE = 200
DEFAULT_ANSWER = 1_024
"""Tokens kept free for the answer where neither the request nor the policy says how many."""


class TailItem(Struct, frozen=True, kw_only=True):
    """An item of the path with its place; `tokens` as `o200k_base` counts what is sent of it."""

    item_id: str
    parent_id: str | None
    depth: int
    tokens: int
    item: Item


class Tail(Struct, frozen=True, kw_only=True):
    """The end of a conversation at a version: its newest items, oldest first. `whole`: there are none before them."""

    version: int
    instructions: str | None
    policy: ContextPolicy
    items: tuple[TailItem, ...]
    whole: bool


class Asked(Struct, frozen=True, kw_only=True):
    """What a reply is asked with: `parameters` as the request had them, the new items with their minted ids."""

    model: str
    parameters: Mapping[str, Any]
    input: Sequence[tuple[str, Item]] = ()


class Chosen(Struct, frozen=True, kw_only=True):
    """The items of `tail` that a model is shown, after these instructions. `tokens`: all that is sent, counted by `encoding`."""

    tail: Tail
    items: tuple[Candidate, ...]
    instructions: tuple[str, ...]
    budget: int
    tokens: int
    encoding: str


class Context(Struct, frozen=True, kw_only=True):
    """What a model is sent: the request's body, and what goes on record."""

    body: dict[str, Any]
    shown: Shown


EMPTY = Tail(version=0, instructions=None, policy=ContextPolicy(), items=(), whole=True)

Snapshots = Callable[[str, str], Awaitable[Tail | None]]
"""(tenant, conversation_id) -> the snapshot there is, of whatever version; None also when snapshots are away."""


class Reader(Protocol):
    """What a context needs of the log: EventReader, or the query side's, whose look-ups end soon."""

    async def conversation_backwards(self, conversation_id: str, *, until: int, limit: int) -> list[Recorded]:
        """At most `limit` events with version <= `until`, newest first; none only when there are none."""

    async def item(self, conversation_id: str, item_id: str) -> list[Recorded]:
        """Every event that names this item, ascending."""


class Contexts:
    """Assembles contexts. Raises ContextTooLong, and psycopg.Error when the log is needed and away."""

    def __init__(self, reader: Reader, model: Model, snapshots: Snapshots) -> None:
        self._reader = reader
        self._model = model
        self._snapshots = snapshots

    async def assemble(self, tenant: str, conversation_id: str | None, version: int, asked: Asked) -> Context:
        """The context of a conversation at `version`, its head; None has nothing in it yet."""
        snapshot = None if conversation_id is None else await self.snapshot(tenant, conversation_id)
        chosen = await self.choose(conversation_id, version, asked, snapshot)
        items = [*(each.item for each in chosen.items), *(item for _, item in asked.input)]
        body = render(
            CHAT,
            model=asked.model,
            instructions=chosen.instructions,
            summary=None,
            items=items,
            parameters=asked.parameters,
        )
        shown = Shown(
            version=chosen.tail.version,
            ranges=_ranges(chosen.items),
            budget=chosen.budget,
            tokens=chosen.tokens,
            encoding=chosen.encoding,
            renderer=CHAT,
            request_sha256=request_sha256(body),
        )
        return Context(body=body, shown=shown)

    async def choose(self, conversation_id: str | None, version: int, asked: Asked, snapshot: Tail | None) -> Chosen:
        """What of a conversation at `version` is shown. `snapshot`: the one there is, of whatever version."""
        window = self._model.window(asked.model)
        tail = EMPTY
        if conversation_id is not None:
            tail = await self.tail(conversation_id, version, window, snapshot)
        budget = self._budget(tail.policy, asked, window)
        encoding = encoding_for(asked.model)
        given = asked.parameters.get("instructions")
        instructions = [text for text in (tail.instructions, given) if text]
        counts = await count_off_loop([*instructions, *(counted_text(item) for _, item in asked.input)], encoding)
        always = sum(counts[: len(instructions)]) + PER_MESSAGE_TOKENS * bool(instructions)
        new = sum(counts[len(instructions) :]) + sum(fixed_tokens(item) for _, item in asked.input)
        candidates = [Candidate(item_id=each.item_id, item=each.item, tokens=each.tokens) for each in tail.items]
        selection = newest_turns(candidates, always=always, asked=new, budget=budget, whole=tail.whole)
        if asked.parameters.get("truncation") == "disabled" and (selection.left_out or not tail.whole):
            raise ContextTooLong(always + new + sum(each.tokens for each in candidates), budget)
        return Chosen(
            tail=tail,
            items=selection.shown,
            instructions=tuple(instructions),
            budget=budget,
            tokens=selection.tokens,
            encoding=encoding,
        )

    async def snapshot(self, tenant: str, conversation_id: str) -> Tail | None:
        """The snapshot there is, of whatever version."""
        return await self._snapshots(tenant, conversation_id)

    async def tail(self, conversation_id: str, version: int, budget: int, snapshot: Tail | None) -> Tail:
        """The conversation's end at `version`, at least `budget` tokens of it or all."""
        if snapshot is not None and snapshot.version == version:
            if snapshot.whole or sum(each.tokens for each in snapshot.items) >= budget:
                return snapshot
        return await tail_from_log(self._reader, conversation_id, version, budget)

    def _budget(self, policy: ContextPolicy, asked: Asked, window: int) -> int:
        """Tokens that may be sent: the window less what the answer may take, or the policy's budget if that is less."""
        answer = asked.parameters.get("max_output_tokens") or policy.reserve or min(DEFAULT_ANSWER, window // 2)
        room = max(0, int((window - answer) * self._model.room(asked.model)))
        return min(room, policy.budget) if policy.budget is not None else room


async def tail_from_log(reader: Reader, conversation_id: str, version: int, budget: int) -> Tail:
    """The tail, read backwards from `version` in pages until `budget` tokens are there or the conversation begins."""
    instructions, policy = await described(reader, conversation_id, version)
    newest_first: list[TailItem] = []
    retracted: set[str] = set()
    tokens = 0
    until = version
    while until > 0 and tokens < budget:
        page = await reader.conversation_backwards(conversation_id, until=until, limit=PAGE)
        appended: list[tuple[ItemAppended, Item]] = []
        for recorded in page:
            match recorded.event:
                case ItemRetracted():
                    retracted.add(recorded.event.item_id)
                case ItemAppended() if recorded.event.item_id not in retracted:
                    appended.append((recorded.event, from_stored(recorded.event.item)))
                case _:
                    pass
        counts = await count_off_loop([counted_text(item) for _, item in appended])
        for (event, item), count in zip(appended, counts, strict=True):
            size = count + fixed_tokens(item)
            tokens += size
            newest_first.append(
                TailItem(item_id=event.item_id, parent_id=event.parent_id, depth=event.depth, tokens=size, item=item)
            )
        until = page[-1].version - 1 if page else 0
    return Tail(
        version=version,
        instructions=instructions,
        policy=policy,
        items=tuple(reversed(newest_first)),
        whole=until == 0,
    )


async def described(reader: Reader, conversation_id: str, version: int) -> tuple[str | None, ContextPolicy]:
    """The instructions and the policy at `version`: the few events that say them, found by index."""
    instructions: str | None = None
    policy = ContextPolicy()
    for recorded in await reader.item(conversation_id, DESCRIPTION):
        event = recorded.event
        if recorded.version > version or not isinstance(event, ConversationStarted | ConversationDescribed):
            continue
        instructions = instructions if event.instructions is UNSET else event.instructions
        policy = policy if event.context_policy is UNSET else event.context_policy
    return instructions, policy


def _ranges(shown: Sequence[Candidate]) -> tuple[ShownRange, ...]:
    if not shown:
        return ()
    tokens = sum(each.tokens for each in shown)
    return (ShownRange(first=shown[0].item_id, last=shown[-1].item_id, count=len(shown), tokens=tokens),)
