"""The checks of random walks find each broken rule, and nothing in a correct store."""

from collections import Counter
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from context.transcripts.chat_messages import items_of
from domain.events import (
    ConversationDeleted,
    ItemRetracted,
)
from domain.items import Item
from tests.end_to_end.walk_checks import WalkChecks
from tests.end_to_end.walk_messages import SHAPES, Shape, meaning_of_item, meanings
from tests.end_to_end.walk_model import Owner, Recognised, SentTranscript, StoredItem
from tests.end_to_end.walk_plan import PlannedRequest, Planner, Round
from tests.end_to_end.walk_rule_store import RuleStore

SUBJECTS = {"ann": "ann", "bob": "bob"}
WALKS = 6
REQUESTS = 120


# Each of these stores breaks one rule.


class JoinsSubjects(RuleStore):
    def owner(self, request: PlannedRequest) -> Owner:
        return Owner("everybody", request.user)


class JoinsUsers(RuleStore):
    def owner(self, request: PlannedRequest) -> Owner:
        return Owner(request.subject, None)


class JoinsFirstMessages(RuleStore):
    def recognised(self, transcript: SentTranscript) -> Recognised:
        found = super().recognised(transcript)
        if found.length:
            return found
        first = [
            i.item_id for i in self.model.items.values() if i.parent_id is None and i.meaning == transcript.items[0]
        ]
        return Recognised(1, frozenset(first[:1])) if first else found


class RecognisesNothing(RuleStore):
    def sent(self, request: PlannedRequest) -> SentTranscript:
        transcript = super().sent(request)
        transcript.ends, transcript.answers = [], []
        return transcript


class RecognisesOneMessageLess(RuleStore):
    def recognised(self, transcript: SentTranscript) -> Recognised:
        shorter = self.sent_without_last(transcript)
        return super().recognised(shorter) if shorter.items else Recognised(0, frozenset())

    def sent_without_last(self, transcript: SentTranscript) -> SentTranscript:
        shorter = SentTranscript(transcript.owner, ())
        shorter.items = transcript.items[:-1]
        shorter.ends = [end for end in transcript.ends if end < len(transcript.items)]
        return shorter


class RecognisesNoTurns(RuleStore):
    def sent(self, request: PlannedRequest) -> SentTranscript:
        transcript = super().sent(request)
        transcript.answers = []
        return transcript


class IgnoresAnswers(RuleStore):
    """Treats all messages of the assistant as equal."""

    def recognised(self, transcript: SentTranscript) -> Recognised:
        found = super().recognised(transcript)
        for item in self.model.items.values():
            path = [self.model.items[item_id].meaning for item_id in self.model.path(item.item_id)]
            length = len(path)
            same = [a == b or (a or b)[:2] == b[:2] == ("message", "assistant") for a, b in zip(path, transcript.items)]  # noqa: B905
            if item.owner == transcript.owner and found.length < length <= len(transcript.items) and all(same):
                if item.is_answer and not self.model.conversations[item.conversation_id].is_deleted:
                    found = Recognised(length, frozenset({item.item_id}))
        return found


class CopiesTheTranscript(RuleStore):
    def new_items(self, items: Sequence[Item], recognised: Recognised) -> Sequence[Item]:
        return super().new_items(items, Recognised(0, recognised.item_ids))


class LosesAMessage(RuleStore):
    def new_items(self, items: Sequence[Item], recognised: Recognised) -> Sequence[Item]:
        return super().new_items(items, recognised)[1:]


class SwapsMessages(RuleStore):
    def new_items(self, items: Sequence[Item], recognised: Recognised) -> Sequence[Item]:
        return super().new_items(items, recognised)[::-1]


class StoresTwice(RuleStore):
    def answer(self, request: PlannedRequest) -> None:
        super().answer(request)
        super().answer(request)


class StoresUnstored(RuleStore):
    def run(self, planned: Round) -> None:
        for request in planned.requests:
            self.answer(request)


class AlwaysForks(RuleStore):
    def _target(self, request: PlannedRequest, after: str | None) -> str:
        return self._start(request, after)


class AlwaysOpensBranches(RuleStore):
    always_opens_branches = True


class AppendsAtTheHead(RuleStore):
    only_at_head = True


class RecognisesDeleted(RuleStore):
    def delete(self, conversation_id: str) -> None:
        self._append(conversation_id, ConversationDeleted())


class RecognisesRetracted(RuleStore):
    def retract(self, item: StoredItem) -> None:
        self._append(item.conversation_id, ItemRetracted(item_id=item.item_id, branch=0, depth=1))


class IgnoresNames(RuleStore):
    def sent(self, request: PlannedRequest) -> SentTranscript:
        return super().sent(replace(request, name=None, echoes=None))


class ListsAtOnce(RuleStore):
    first_listed = 1


class ListsNever(RuleStore):
    first_listed = REQUESTS


STORES = RuleStore.__subclasses__()


@pytest.fixture(scope="module")
def plans() -> list[list[Round]]:
    return [Planner(seed, names=True).rounds(REQUESTS) for seed in range(WALKS)]


def check(store: RuleStore, rounds: Sequence[Round]) -> WalkChecks:
    requests = {request.number: request for planned in rounds for request in planned.requests}
    checks = WalkChecks(requests, SUBJECTS)
    for planned in rounds:
        for request in planned.requests:
            requests[request.number] = replace(request, name=RuleStore.sent(store, request).name)
        store.run(planned)
        checks.observe(iter(store.events))
        store.events = []
    return checks


def test_a_store_that_follows_the_rules_passes(plans: Sequence[Sequence[Round]]) -> None:
    counts = sum((check(RuleStore(), rounds).counts for rounds in plans), start=Counter[str]())
    assert min(counts.values()) > WALKS * REQUESTS / 20, counts


class ComparesFirst(RuleStore):
    """Compares all requests of a round with the store before the round.

    Of equally good items, the first request takes the first item. Later requests take the last item.
    """

    def run(self, planned: Round) -> None:
        self._before, self._is_first = self.model.copy(), True
        super().run(planned)

    def recognised(self, transcript: SentTranscript) -> Recognised:
        found = self._before.required(transcript)
        item_ids, self._is_first = sorted(found.item_ids)[:: 1 if self._is_first else -1], False
        return Recognised(found.length, frozenset(item_ids[:1]))


def test_requests_of_a_round_may_all_be_compared_with_the_store_before_the_round() -> None:
    for seed in range(WALKS):
        check(ComparesFirst(), Planner(seed).rounds(2 * REQUESTS))


@pytest.mark.parametrize("store", STORES)
def test_a_store_that_breaks_a_rule_fails(store: type[RuleStore], plans: Sequence[Sequence[Round]]) -> None:
    def is_noticed(rounds: Sequence[Round]) -> bool:
        try:
            check(store(), rounds)
        except AssertionError:
            return True
        return False

    assert any(is_noticed(rounds) for rounds in plans)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_keeps_the_meaning_and_changes_at_least_one_message(shape: Shape) -> None:
    messages = [
        message
        for planned in Planner(1).rounds(REQUESTS)
        for request in planned.requests
        for message in request.messages
    ]
    shaped = [shape(message) for message in messages]
    assert meanings(shaped) == meanings(messages)
    assert shaped != messages or [[*message] for message in shaped] != [[*message] for message in messages]


def test_items_mean_what_their_messages_mean() -> None:
    for planned in Planner(2).rounds(REQUESTS):
        for request in planned.requests:
            items = [item for message in request.messages for item in items_of(message)]
            assert [means for item in items if (means := meaning_of_item(item))] == meanings(request.messages)


def test_the_same_seed_gives_the_same_plan_and_another_seed_another_plan() -> None:
    assert Planner(3, kills=0.1).rounds(REQUESTS) == Planner(3, kills=0.1).rounds(REQUESTS)
    assert Planner(3).rounds(REQUESTS) != Planner(4).rounds(REQUESTS)
