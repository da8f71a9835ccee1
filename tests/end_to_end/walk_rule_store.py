"""A store in memory that follows the rules of `walk_model.py`. Pure."""

import json
from collections.abc import Sequence

import msgspec

from context.transcripts.chat_messages import items_of
from domain.events import (
    ConversationDeleted,
    ConversationDescribed,
    ConversationStarted,
    Event,
    Fork,
    InputItem,
    ItemAppended,
    ItemRetracted,
    Leaf,
    PathBranch,
    ReplyCompleted,
    ReplyRequested,
    Shown,
    Timing,
    Usage,
)
from domain.items import Item
from tests.end_to_end.walk_messages import meaning_of_item, meanings
from tests.end_to_end.walk_model import Owner, Recognised, SentTranscript, StoredItem, StoreModel
from tests.end_to_end.walk_plan import PlannedRequest, Round


class RuleStore:
    """Answers requests, and keeps the events. Subclasses may break a rule.

    `first_listed`: the number of the request that makes its conversation listed.
    """

    first_listed = 2
    only_at_head = False
    always_opens_branches = False

    def __init__(self) -> None:
        self.events: list[tuple[str, Event]] = []
        self.model = StoreModel()
        self._conversation_of: dict[int, str] = {}
        self._count = 0

    def run(self, planned: Round) -> None:
        for request in planned.requests if planned.deletion is None and not planned.hangs_up else ():
            if request.store is not False and not self._names_deleted(request):
                self.answer(request)
        if planned.deletion is not None and planned.deletion.number in self._conversation_of:
            conversation_id = self._conversation_of[planned.deletion.number]
            items = self.model.own_items(conversation_id)
            if self.model.conversations[conversation_id].is_deleted or not items:
                return
            if planned.deletion.at is None:
                self.delete(conversation_id)
            else:
                self.retract(items[int(planned.deletion.at * len(items))])

    def _names_deleted(self, request: PlannedRequest) -> bool:
        """Whether the request names a deleted conversation by its id. Such a request is refused."""
        conversation_id = None if request.echoes is None else self._conversation_of.get(request.echoes)
        return conversation_id is not None and self.model.conversations[conversation_id].is_deleted

    def owner(self, request: PlannedRequest) -> Owner:
        return Owner(request.subject, request.user)

    def sent(self, request: PlannedRequest) -> SentTranscript:
        echoed = None if request.echoes is None else self._conversation_of.get(request.echoes)
        return SentTranscript(self.owner(request), request.messages, echoed or request.name)

    def recognised(self, transcript: SentTranscript) -> Recognised:
        return self.model.required(transcript)

    def answer(self, request: PlannedRequest) -> None:
        transcript = self.sent(request)
        recognised = self.recognised(transcript)
        after, named = min(recognised.item_ids, default=None), self.model.named(transcript)
        conversation_id = named or self._target(request, after)
        messages = [item for message in request.messages for item in items_of(message)]
        messages = [item for item in messages if meaning_of_item(item) is not None]
        self._reply(request, transcript, conversation_id, self.new_items(messages, recognised), after)

    def new_items(self, items: Sequence[Item], recognised: Recognised) -> Sequence[Item]:
        """The items after the recognised ones."""
        return items[recognised.length :]

    def _target(self, request: PlannedRequest, after: str | None) -> str:
        return self._start(request, None) if after is None else self.model.items[after].conversation_id

    def _start(self, request: PlannedRequest, after: str | None) -> str:
        fork = None
        if after is not None:
            fork = Fork(conversation_id=self.model.items[after].conversation_id, item_id=after, version=1)
        conversation_id = self._id("conv")
        self._append(
            conversation_id,
            ConversationStarted(
                conversation_id=conversation_id,
                tenant="acme",
                owner=request.subject,
                family=conversation_id,
                listed=False,
                forked_from=fork,
            ),
        )
        self.model.start(conversation_id, request.subject, after)
        return conversation_id

    def _reply(
        self,
        request: PlannedRequest,
        transcript: SentTranscript,
        conversation_id: str,
        new: Sequence[Item],
        after: str | None,
    ) -> None:
        response_id = self._id("resp")
        head = self.model.conversations[conversation_id].head
        if after is None or self.only_at_head:
            after = head
        opens_branch = after != head or self.always_opens_branches
        leaf = Leaf(after, 1, (PathBranch(0, 1, 1),)) if opens_branch else None
        self.model.request(conversation_id, response_id, after)
        if self.model.conversations[conversation_id].requests == self.first_listed:
            self._append(conversation_id, ConversationDescribed(listed=True))
        self._conversation_of[request.number] = conversation_id
        output = items_of(request.answer.message())
        ids = [self._id("msg") for _ in (*new, *output)]
        parents = [after, *ids]
        self._append(conversation_id, _requested(request, response_id, ids, new, leaf))
        joined = []
        for item_id, parent_id, item in zip(ids, parents, (*new, *output), strict=False):
            self._append(
                conversation_id,
                ItemAppended(
                    item_id=item_id,
                    parent_id=parent_id,
                    branch=0,
                    depth=1,
                    item=msgspec.json.encode(item),
                    author="ann",
                    response_id=response_id,
                ),
            )
            is_answer = item_id in ids[len(new) :]
            means = meaning_of_item(item)
            joined.append(
                StoredItem(item_id, parent_id, conversation_id, transcript.owner, means, is_answer, response_id)
            )
        self.model.join(transcript, conversation_id, joined, meanings([request.answer.message()]))
        self.model.end(conversation_id, response_id)
        self._append(conversation_id, _completed(response_id, ids[: len(new)], ids[len(new) :]))

    def delete(self, conversation_id: str) -> None:
        self.model.delete(conversation_id)
        self._append(conversation_id, ConversationDeleted())

    def retract(self, item: StoredItem) -> None:
        self.model.retract(item.item_id)
        self._append(item.conversation_id, ItemRetracted(item_id=item.item_id, branch=0, depth=1))

    def _append(self, conversation_id: str, event: Event) -> None:
        self.events.append((conversation_id, event))

    def _id(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}_{self._count:06}"


def _requested(
    request: PlannedRequest, response_id: str, ids: Sequence[str], new: Sequence[Item], leaf: Leaf | None
) -> ReplyRequested:
    items = tuple(
        InputItem(item_id=item_id, item=msgspec.json.encode(item)) for item_id, item in zip(ids, new, strict=False)
    )
    shown = Shown(version=1, ranges=(), budget=1, tokens=1, encoding="", renderer=6, request_sha256=b"")
    parameters = json.dumps({"chat": {"seed": request.number}}).encode()
    return ReplyRequested(
        response_id=response_id, model="m", parameters=parameters, input=items, shown=shown, after=leaf
    )


def _completed(response_id: str, input_ids: Sequence[str], output_ids: Sequence[str]) -> ReplyCompleted:
    return ReplyCompleted(
        response_id=response_id,
        model="m",
        input_ids=tuple(input_ids),
        output_ids=tuple(output_ids),
        usage=Usage(),
        finish_reason="stop",
        timing=Timing(first_ms=1, total_ms=1),
    )
