"""Compares what the log records of a random walk with the model of the store."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import psycopg
from msgspec import Struct

from domain.events import (
    REPLY_ENDS,
    ConversationDeleted,
    ConversationDescribed,
    ConversationStarted,
    Event,
    HeadMoved,
    ItemAppended,
    ItemRetracted,
    ReplyCompleted,
    ReplyRequested,
)
from domain.items import from_stored
from infrastructure.event_log.codec import decode
from infrastructure.ids import conversation_id as conversation_id_of
from tests.end_to_end.walk_messages import meaning_of_item, meanings
from tests.end_to_end.walk_model import Owner, SentTranscript, StoredItem, StoreModel
from tests.end_to_end.walk_plan import PlannedRequest

ANOTHER_REPLY = "another reply runs after the same item"
BRANCH_AT_HEAD = "it opens a branch at the head"


class LogTail:
    def __init__(self, postgres_url: str) -> None:
        self._connection = psycopg.connect(postgres_url, autocommit=True)
        self._position = 0
        for _ in self.new():
            pass

    def new(self) -> Iterator[tuple[str, Event]]:
        """(conversation id, event) of each event since the last call."""
        rows = self._connection.execute(
            "SELECT notification_id, originator_id, topic, state FROM events WHERE notification_id > %s ORDER BY notification_id",
            (self._position,),
        )
        for position, stream_id, topic, state in rows.fetchall():
            self._position = position
            yield conversation_id_of(stream_id), decode(topic, state)

    def rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql, parameters).fetchall()

    def close(self) -> None:
        self._connection.close()


class RecordedRequest(Struct):
    """A request as the log records it. `after`: the item that the reply continues from.

    `new_count`: how many items of `new_input` are compared. `since`: how many events were seen before the
    round. `ended`: how many events were seen at the end of the reply. `joined`: the ids of the items that joined.
    """

    request: PlannedRequest
    transcript: SentTranscript
    conversation_id: str
    response_id: str
    after: str | None
    new_input: tuple[str, ...]
    new_count: int
    since: int
    deleted_before: frozenset[str]
    ended: int | None = None
    joined: tuple[str, ...] = ()
    is_branch: bool = False


class WalkChecks:
    """Checks each event of the log with the model. `requests`: by their number in the store.

    `subjects`: the subjects in the store, by their names in the plan.
    """

    def __init__(self, requests: Mapping[int, PlannedRequest], subjects: Mapping[str, str]) -> None:
        self.model = StoreModel()
        self.recorded: dict[int, RecordedRequest] = {}
        self.listed: dict[str, bool] = {}
        self.origins: dict[str, str | None] = {}
        self.counts: Counter[str] = Counter()
        self._requests = requests
        self._subjects = subjects
        self._by_response: dict[str, RecordedRequest] = {}
        self._states: list[StoreModel] = []
        self._seen = 0
        self._seen_before_round = 0
        self._stored: dict[tuple[Any, ...], str] = {}
        self._started: dict[str, ConversationStarted] = {}
        self._appended: list[ItemAppended] = []

    def observe(self, events: Iterator[tuple[str, Event]]) -> None:
        self._states, self._seen_before_round = [self.model.copy()], self._seen
        for conversation_id, event in events:
            self._seen += 1
            self._observe(conversation_id, event)

    def may_be_blanked(self, recorded: RecordedRequest) -> bool:
        """Whether a deleted item equals an item of the transcript."""
        deleted = {item.meaning for item in self.model.items.values() if self.model.is_deleted(item.item_id)}
        return bool(deleted & set(recorded.transcript.items))

    def must_be_blanked(self, recorded: RecordedRequest) -> bool:
        """Whether an item of the request was deleted later.

        New items count if they have joined. The items of the path count if the transcript begins with the path.
        """
        before = [self.model.items[item_id] for item_id in self.model.path(recorded.after)]
        count = len(recorded.transcript.items) - recorded.new_count
        if tuple(item.meaning for item in before if item.meaning) != recorded.transcript.items[:count]:
            before = []
        items = [*(item.item_id for item in before if item.meaning), *(recorded.new_input if recorded.joined else ())]
        return any(self.model.is_deleted(item_id) and item_id not in recorded.deleted_before for item_id in items)

    def _observe(self, conversation_id: str, event: Event) -> None:
        match event:
            case ConversationStarted():
                self._started[conversation_id] = event
                self.listed[conversation_id] = event.listed
            case ConversationDescribed(listed=bool(listed)):
                self.listed[conversation_id] = listed
            case ReplyRequested():
                self._requested(conversation_id, event)
            case ItemAppended():
                self._appended.append(event)
                return
            case HeadMoved():
                return  # the model moves its head when the items join
            case ReplyCompleted():
                self._completed(conversation_id, event)
            case ConversationDeleted():
                self.model.delete(conversation_id)
                for response_id in self.model.conversations[conversation_id].running:
                    self._ended(conversation_id, response_id)  # the end of this reply is not recorded
            case ItemRetracted():
                self.model.retract(event.item_id)
            case _ if isinstance(event, REPLY_ENDS):
                self._ended(conversation_id, event.response_id)
        assert not self._appended, f"items joined {conversation_id} without a reply"
        self._states.append(self.model.copy())

    def _requested(self, conversation_id: str, event: ReplyRequested) -> None:
        number = json.loads(event.parameters)["chat"]["seed"]
        request = self._requests[number]
        assert number not in self.recorded, f"request {request.number} is recorded twice"
        assert request.store is not False, f"request {request.number} is recorded in spite of `store: false`"
        subject = self._subjects[request.subject]
        transcript = SentTranscript(Owner(subject, request.user), request.messages, request.name)
        after = event.after.item_id if event.after else self._after(conversation_id, subject)
        new = [means for item in event.input if (means := meaning_of_item(from_stored(item.item))) is not None]
        recorded = RecordedRequest(
            request,
            transcript,
            conversation_id,
            event.response_id,
            after,
            tuple(item.item_id for item in event.input),
            len(new),
            self._seen_before_round,
            frozenset(item_id for item_id in self.model.path(after) if self.model.is_deleted(item_id)),
            is_branch=event.after is not None,
        )
        count = len(transcript.items) - len(new)
        assert [*transcript.items[count:]] == new, (
            f"the new items of request {request.number} are not the end of its transcript"
        )
        fault = self._fault(recorded, count)
        assert fault is None, f"request {request.number} ({request.kind}): {fault}"
        if conversation_id not in self.model.conversations:
            self.model.start(conversation_id, subject, after)
        self.model.request(conversation_id, event.response_id, after)
        self.recorded[number] = self._by_response[event.response_id] = recorded
        requests = self.model.conversations[conversation_id].requests
        assert self.listed[conversation_id] == (requests > 1), (
            f"{conversation_id} is {'' if self.listed[conversation_id] else 'not '}listed at its request no. {requests}"
        )

    def _after(self, conversation_id: str, subject: str) -> str | None:
        """The item that the reply continues from. None in a new conversation that is no fork."""
        if conversation_id in self.model.conversations:
            assert self.model.conversations[conversation_id].subject == subject, (
                f"{conversation_id} belongs to another subject"
            )
            return self.model.conversations[conversation_id].head
        started = self._started[conversation_id]
        assert started.owner == subject, f"{conversation_id} belongs to {started.owner} instead of {subject}"
        self.origins[conversation_id] = started.forked_from.conversation_id if started.forked_from else None
        return started.forked_from.item_id if started.forked_from else None

    def _fault(self, recorded: RecordedRequest, count: int) -> str | None:
        """What is wrong with where the reply continues. `count`: how many items were recognised.

        The store compares the transcript first and appends the request later. So the match must be right in one state
        of the round, and the conversation in that state or a later state. If another reply was running after the head,
        the request may open a branch at the head.
        """
        faults: dict[str, None] = {}
        for n, compared in enumerate(self._states):
            fault = self._fault_of_match(recorded, count, compared)
            if fault is None:
                faults_of_item = [self._fault_of_item(recorded, count, compared, state) for state in self._states[n:]]
                if None in faults_of_item or _was_refused_at_head(faults_of_item):
                    return None
                fault = ", then ".join(dict.fromkeys(map(str, faults_of_item)))
            faults[fault] = None
        return "; or ".join(faults)

    @staticmethod
    def _fault_of_match(recorded: RecordedRequest, count: int, state: StoreModel) -> str | None:
        transcript, after = recorded.transcript, recorded.after
        required = state.required(transcript).length
        if _is_only_named(recorded, count, state):
            return None
        if after is None:
            if count or recorded.conversation_id in state.conversations:
                return f"it continues from no item, but {count} items are left out, or its conversation exists"
            return f"a new conversation begins, but {required} items are recognised" if required else None
        if after not in state.items or not state.is_sound(transcript, after, count):
            return f"its first {count} items are not the path to {after}"
        return f"only {count} items are recognised instead of {required}" if count < required else None

    def _fault_of_item(
        self, recorded: RecordedRequest, count: int, compared: StoreModel, state: StoreModel
    ) -> str | None:
        """What is wrong with the conversation or the branch. `compared`: the state when the transcript was compared."""
        if (named := compared.named(recorded.transcript)) is not None and _is_only_named(recorded, count, compared):
            return self._fault_at_end(recorded, named, state)
        if recorded.after is None:
            return None
        target = named or state.items[recorded.after].conversation_id
        conversation = state.conversations[target]
        is_awaited = recorded.after in conversation.running.values()
        if recorded.conversation_id not in state.conversations:
            return None if is_awaited else f"it is a new fork, although no reply in {target} runs after the same item"
        if recorded.conversation_id != target:
            return f"it is in another conversation than {target}"
        if is_awaited:
            return ANOTHER_REPLY
        if recorded.is_branch and conversation.head == recorded.after:
            return BRANCH_AT_HEAD
        return None

    @staticmethod
    def _fault_at_end(recorded: RecordedRequest, named: str, state: StoreModel) -> str | None:
        """The reply must continue after the head of `named`, and in a fork if another reply runs there."""
        conversation = state.conversations[named]
        if recorded.after != conversation.head:
            return f"it does not continue after the last item of {named}"
        is_running = conversation.head in conversation.running.values()
        is_other = recorded.conversation_id != named
        return (
            None
            if is_running == is_other
            else f"a reply runs in {named}: {is_running}, the request is in another conversation: {is_other}"
        )

    def _completed(self, conversation_id: str, event: ReplyCompleted) -> None:
        recorded = self._by_response[event.response_id]
        appended, self._appended = self._appended, []
        names = (*event.input_ids, *event.output_ids)
        assert tuple(item.item_id for item in appended) == names
        assert event.input_ids == recorded.new_input
        assert [item.parent_id for item in appended] == [recorded.after, *names][: len(names)]
        items = [
            StoredItem(
                item.item_id,
                item.parent_id,
                conversation_id,
                recorded.transcript.owner,
                meaning_of_item(from_stored(item.item)),
                item.item_id in event.output_ids,
                event.response_id,
            )
            for item in appended
        ]
        answer = meanings([recorded.request.answer.message()])
        assert [item.meaning for item in items if item.is_answer and item.meaning] == answer
        self._check_not_stored_twice(recorded, items)
        self._count(recorded)
        self.model.join(recorded.transcript, conversation_id, items, answer, aside=appended[0].aside)
        recorded.joined = names
        self._ended(conversation_id, event.response_id)

    def _check_not_stored_twice(self, recorded: RecordedRequest, items: Sequence[StoredItem]) -> None:
        """Two requests at the same time may store a message twice.

        Not checked: first messages, messages that were forgotten, and requests that name their conversation.
        """
        transcript = recorded.transcript
        items = [item for item in items if item.meaning is not None and not item.is_answer]
        count = len(transcript.items) - len(items)
        for start, end in pairwise([0, *transcript.ends]):
            if start < count or start == 0:
                continue
            item, last = items[start - count], items[end - count - 1]
            key = (transcript.owner, item.parent_id, transcript.items[:end])
            earlier = self._stored.get(key) if transcript.name is None else None
            if earlier is not None and not self.model.is_forgotten(earlier):
                ended = self._by_response[self.model.items[earlier].response_id].ended or 0
                assert ended > recorded.since, f"{item.item_id} stores the message of {earlier} once more"
            self._stored[key] = last.item_id

    def _ended(self, conversation_id: str, response_id: str) -> None:
        recorded = self._by_response[response_id]
        assert recorded.ended is None, f"{response_id} has two ends"
        recorded.ended = self._seen
        self.model.end(conversation_id, response_id)

    def _count(self, recorded: RecordedRequest) -> None:
        if recorded.after is None:
            self.counts["new conversation"] += 1
        elif recorded.is_branch:
            self.counts["branch"] += 1
        elif self.origins[recorded.conversation_id] is None:
            self.counts["appended"] += 1
        else:
            self.counts["fork, or in a fork"] += 1


def _was_refused_at_head(faults: Sequence[str | None]) -> bool:
    return ANOTHER_REPLY in faults and BRANCH_AT_HEAD in faults[faults.index(ANOTHER_REPLY) :]


def _is_only_named(recorded: RecordedRequest, count: int, state: StoreModel) -> bool:
    """Whether the client names a conversation that has nothing in common with the transcript."""
    transcript = recorded.transcript
    return state.named(transcript) is not None and count == state.required(transcript).length == 0
