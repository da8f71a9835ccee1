"""A model in memory of the transcripts that the store keeps. Pure.

The model says from which items a transcript may continue. `required` is the least that the store must recognise.
`is_sound` says what the store may recognise.

A *prefix* of a transcript is recognised if an earlier transcript of the same subject and user began with it, and if the
prefix has an answer of this store. A *turn* is an answer of this store and the item before it. If the first messages of
a transcript were cut off or rewritten, its last three turns count. The transcript is recognised at the newest of these
turns that the store has, and at the items that follow on the same path. The turn must end later than the longest
recognised prefix, and the path to the turn must contain this prefix.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from tests.end_to_end.walk_messages import Json, Meaning, meanings

MAX_ANSWERS = 3

MAX_EQUAL_TURNS = 8
"""If the store has more equal turns than this, it need not recognise the transcript at a turn."""

MIN_COMMON_TEXT = 16
"""How many characters two texts must share to count as the same answer. `is_same_answer` has exceptions."""


ASSISTANT = ("message", "assistant")


class Owner(NamedTuple):
    """Who sent a transcript. `user`: `user` or `safety_identifier` of the requests."""

    subject: str
    user: str | None


class SentTranscript:
    """A transcript in a request. `ends[i]`: how many items the first i + 1 messages have."""

    def __init__(self, owner: Owner, messages: Sequence[Json], name: str | None = None) -> None:
        self.owner = owner
        self.name = name
        self.items = tuple(meanings(messages))
        counts = [len(meanings([message])) for message in messages]
        self.ends = [sum(counts[: index + 1]) for index in range(len(counts))]
        self.answers = [
            (end - count, end)
            for message, count, end in zip(messages, counts, self.ends, strict=True)
            if message["role"] == "assistant" and end > count
        ]

    def start_of(self, end: int) -> int:
        return max((other for other in self.ends if other < end), default=0)

    def turns(self) -> Iterator[tuple[Meaning, tuple[Meaning, ...], int]]:
        """(item before the answer, items of the answer, end of the answer), newest first."""
        for start, end in reversed(self.answers[-MAX_ANSWERS:]):
            yield self.items[start - 1], self.items[start:end], end


class StoredItem(Struct, frozen=True):
    """An item in the store. `meaning`: None if it is not compared."""

    item_id: str
    parent_id: str | None
    conversation_id: str
    owner: Owner
    meaning: Meaning | None
    is_answer: bool
    response_id: str


class StoredConversation(Struct, frozen=True):
    """A conversation in the store. `inherited`: the item after which a fork begins.

    `running`: each running reply, and the item that it follows.
    """

    subject: str
    head: str | None
    inherited: str | None = None
    requests: int = 0
    running: Mapping[str, str | None] = {}
    is_deleted: bool = False


class Recognised(NamedTuple):
    """The first `length` items of a transcript are recognised.

    `item_ids`: the stored items that may be the last recognised item.
    """

    length: int
    item_ids: frozenset[str]


NOTHING = Recognised(0, frozenset())


Prefixes = dict[tuple[Owner, tuple[Meaning, ...]], frozenset[str]]


class StoreModel:
    def __init__(self) -> None:
        self.items: dict[str, StoredItem] = {}
        self.conversations: dict[str, StoredConversation] = {}
        self._prefixes: Prefixes = {}
        self._without_answer: Prefixes = {}
        self._turns: dict[tuple[Owner, Meaning, tuple[Meaning, ...]], frozenset[str]] = {}
        self._answers: dict[tuple[Owner, tuple[Meaning, ...]], frozenset[str]] = {}
        self._prefixes_of: dict[str, frozenset[tuple[Meaning, ...]]] = {}
        self._names: dict[tuple[str, str], tuple[str, ...]] = {}
        self._retracted: frozenset[str] = frozenset()
        self._forgotten: frozenset[str] = frozenset()
        self._forgetful: frozenset[str] = frozenset()
        self._never_written: frozenset[str] = frozenset()

    def copy(self) -> "StoreModel":
        copied = copy(self)
        copied.items = self.items.copy()
        copied.conversations = self.conversations.copy()
        copied._prefixes = self._prefixes.copy()
        copied._without_answer = self._without_answer.copy()
        copied._names = self._names.copy()
        copied._answers = self._answers.copy()
        copied._turns = self._turns.copy()
        copied._prefixes_of = self._prefixes_of.copy()
        return copied

    # What happens in the store.

    def start(self, conversation_id: str, subject: str, after: str | None) -> None:
        """`after`: None if the conversation is no fork."""
        assert conversation_id not in self.conversations
        self.conversations[conversation_id] = StoredConversation(subject, after, inherited=after)

    def request(self, conversation_id: str, response_id: str, after: str | None) -> None:
        """A reply begins. `after`: the item that it will follow."""
        conversation = self.conversations[conversation_id]
        running = {**conversation.running, response_id: after}
        self.conversations[conversation_id] = replace(conversation, requests=conversation.requests + 1, running=running)

    def end(self, conversation_id: str, response_id: str) -> None:
        conversation = self.conversations[conversation_id]
        running = {other: after for other, after in conversation.running.items() if other != response_id}
        self.conversations[conversation_id] = replace(conversation, running=running)

    def join(
        self,
        transcript: SentTranscript,
        conversation_id: str,
        items: Iterable[StoredItem],
        answer: Sequence[Meaning],
        *,
        aside: bool = False,
    ) -> None:
        """The items of a reply join. The head moves to the last item, or stays with `aside`."""
        items = list(items)
        for item in items:
            self.items[item.item_id] = item
        if not aside:
            self.conversations[conversation_id] = replace(self.conversations[conversation_id], head=items[-1].item_id)
        if items[0].response_id in self._forgetful:
            self._never_written |= {item.item_id for item in items}
        new_input = [item for item in items if item.meaning is not None and not item.is_answer]
        count = len(transcript.items) - len(new_input)
        before = [self.items[item_id] for item_id in self.path(items[0].parent_id)]
        before = [item for item in before if item.meaning is not None]
        prefixes = self._prefixes if count and any(item.is_answer for item in before[-count:]) else self._without_answer
        for end in transcript.ends:
            if end > count:
                self._add(prefixes, transcript.owner, transcript.items[:end], new_input[end - count - 1].item_id)
        last = next(item.item_id for item in reversed(items) if item.meaning is not None)
        self._add(self._prefixes, transcript.owner, (*transcript.items, *answer), last)
        if transcript.name is not None and transcript.name not in self.conversations:
            name = (transcript.owner.subject, transcript.name)
            self._names[name] = (*self._names.get(name, ()), items[-1].item_id)
        turn = (transcript.owner, transcript.items[-1], tuple(answer))
        self._turns[turn] = self._turns.get(turn, frozenset()) | {last}
        alone = (transcript.owner, tuple(answer))
        self._answers[alone] = self._answers.get(alone, frozenset()) | {last}

    def delete(self, conversation_id: str) -> None:
        self.conversations[conversation_id] = replace(self.conversations[conversation_id], is_deleted=True)

    def retract(self, item_id: str) -> None:
        """Forgets the prefixes and turns at this item and at later items.

        Running replies of the conversation will store no prefixes or turns.
        """
        conversation_id = self.items[item_id].conversation_id
        later = {
            other.item_id
            for other in self.items.values()
            if other.conversation_id == conversation_id and item_id in self.path(other.item_id)
        }
        self._retracted |= {item_id}
        self._forgetful |= self.conversations[conversation_id].running.keys()
        self._forgotten |= later

    # From which items a transcript may continue.

    def named(self, transcript: SentTranscript) -> str | None:
        """The conversation that the client names by its id, or the last conversation with the client's name."""
        name = transcript.name
        if name is None or name in self.conversations:
            return name
        named = [item_id for item_id in self._names.get((transcript.owner.subject, name), ()) if self.has_name(item_id)]
        return self.items[named[-1]].conversation_id if named else None

    def required(self, transcript: SentTranscript) -> Recognised:
        """The least that the store must recognise.

        If the client names a conversation, no answer is needed, and only items on its paths count.
        """
        by_prefix = self._longest_prefix(transcript)
        for before, answer, end in transcript.turns():
            if end <= by_prefix.length:
                break
            turns = set(self._within(transcript, self._turns.get((transcript.owner, before, answer), ())))
            answers = set(self._within(transcript, self._answers.get((transcript.owner, answer), ())))
            if len(answers) == 1:
                turns |= {item_id for item_id in answers if contains_other(self._question_of(item_id), before)}
            if len(turns) > MAX_EQUAL_TURNS:
                return by_prefix
            if by_prefix.length:
                turns = {item_id for item_id in turns if by_prefix.item_ids & set(self.path(item_id))}
            if turns:
                found = Recognised(end, frozenset(turns))
                return self._extended(transcript, found) if len(answers) == 1 else found
        return by_prefix

    def _question_of(self, answer_id: str) -> Meaning | None:
        """The meaning of the item before an answer."""
        response_id = self.items[answer_id].response_id
        path = [self.items[item_id] for item_id in self.path(answer_id)]
        before = [item for item in path if item.meaning and not (item.is_answer and item.response_id == response_id)]
        return before[-1].meaning if before else None

    def is_sound(self, transcript: SentTranscript, item_id: str, count: int) -> bool:
        """Whether the store may recognise the first `count` items as the path to this item."""
        item = self.items[item_id]
        if (named := self.named(transcript)) is not None:
            is_on_path = item_id in self._paths_of(named) and not self.is_deleted(item_id)
            path = [self.items[on_path] for on_path in self.path(item_id)]
            is_same = item.meaning == transcript.items[count - 1] or self._is_same_answer(path, transcript, count)
            return is_on_path and is_same
        if item.owner != transcript.owner or not self._unretracted([item_id]):
            return False
        if item_id in self._prefixes.get((transcript.owner, transcript.items[:count]), ()):
            return True
        path = [self.items[on_path] for on_path in self.path(item_id)]
        path = [on_path for on_path in path if on_path.meaning is not None]
        means = tuple(on_path.meaning for on_path in path)
        has_answer = any(on_path.is_answer for on_path in path)
        if (
            means == transcript.items[:count]
            and has_answer
            and {on_path.owner for on_path in path} == {transcript.owner}
        ):
            return True
        turns = [transcript.items[max(end - 2, 0) : count] for _, _, end in transcript.turns() if end <= count]
        if any(sent[-len(turn) :] == turn for sent in self._prefixes_of.get(item_id, ()) for turn in turns):
            return True
        by_prefix = self._longest_prefix(transcript)
        if by_prefix.length and not by_prefix.item_ids & {on_path.item_id for on_path in path}:
            return False
        return any(self._is_sound_turn(transcript, path, end, count) for end in transcript.ends if end <= count)

    def _is_sound_turn(self, transcript: SentTranscript, path: Sequence[StoredItem], end: int, count: int) -> bool:
        """The path must end with this answer and the items after it, up to `count`.

        If the transcript has items before the answer, one of these items must agree with the path.
        """
        rest = count - end
        if len(path) <= rest or [item.meaning for item in path[len(path) - rest :]] != [*transcript.items[end:count]]:
            return False
        path = path[: len(path) - rest]
        if not self._is_same_answer(path, transcript, end):
            return False
        earlier = path[: len(path) - len(_last_answer(path))]
        before = transcript.items[: transcript.start_of(end)]
        if not before or set(before) & {item.meaning for item in earlier}:
            return True
        return bool(earlier) and contains_other(earlier[-1].meaning, before[-1])

    @staticmethod
    def _is_same_answer(path: Sequence[StoredItem], transcript: SentTranscript, end: int) -> bool:
        answer = [item.meaning for item in _last_answer(path) if item.meaning is not None]
        return is_same_answer(answer, transcript.items[transcript.start_of(end) : end])

    def path(self, item_id: str | None) -> list[str]:
        """From the first item to this one."""
        path: list[str] = []
        while item_id is not None:
            path.append(item_id)
            item_id = self.items[item_id].parent_id
        return path[::-1]

    def shown_items(self, conversation_id: str) -> list[StoredItem]:
        path = self.path(self.conversations[conversation_id].head)
        return [self.items[item_id] for item_id in path if not self.is_deleted(item_id)]

    def own_items(self, conversation_id: str) -> list[StoredItem]:
        """Without retracted and inherited items, in the order of the log."""
        own = (item for item in self.items.values() if item.conversation_id == conversation_id)
        return [item for item in own if item.item_id not in self._retracted]

    def recognisable(self, conversation_id: str) -> set[str]:
        """The items at which a transcript can be recognised. Each is the last item of a message."""
        items = [item.item_id for item in self.own_items(conversation_id) if item.item_id in self._prefixes_of]
        return set(self._unretracted(items))

    def has_name(self, item_id: str) -> bool:
        """Whether a name may still lead to this item."""
        return item_id not in self._forgotten and not self.conversations[self.items[item_id].conversation_id].is_deleted

    def named_items(self, conversation_id: str) -> set[str]:
        named = {item_id for items in self._names.values() for item_id in items if self.has_name(item_id)}
        return {item_id for item_id in named if self.items[item_id].conversation_id == conversation_id}

    def is_forgotten(self, item_id: str) -> bool:
        return not self._unretracted([item_id])

    def is_deleted(self, item_id: str) -> bool:
        return item_id in self._retracted or self.conversations[self.items[item_id].conversation_id].is_deleted

    def _longest_prefix(self, transcript: SentTranscript) -> Recognised:
        for end in reversed(transcript.ends):
            prefix = (transcript.owner, transcript.items[:end])
            found = self._within(transcript, self._prefixes.get(prefix, ()))
            if transcript.name is not None and self.named(transcript) is not None:
                found += self._within(transcript, self._without_answer.get(prefix, ()))
            if found:
                return Recognised(end, frozenset(found))
        return NOTHING

    def _extended(self, transcript: SentTranscript, turn: Recognised) -> Recognised:
        for end in reversed(transcript.ends):
            if end <= turn.length:
                break
            rest = transcript.items[turn.length : end]
            found = [
                item_id
                for turn_id in turn.item_ids
                for prefix in self._prefixes_of.get(turn_id, ())
                for item_id in self._within(transcript, self._prefixes.get((transcript.owner, (*prefix, *rest)), ()))
                if turn_id in self.path(item_id)
            ]
            if found:
                return Recognised(end, frozenset(found))
        return turn

    def _add(self, prefixes: Prefixes, owner: Owner, prefix: tuple[Meaning, ...], item_id: str) -> None:
        prefixes[owner, prefix] = prefixes.get((owner, prefix), frozenset()) | {item_id}
        self._prefixes_of[item_id] = self._prefixes_of.get(item_id, frozenset()) | {prefix}

    def _within(self, transcript: SentTranscript, item_ids: Iterable[str]) -> list[str]:
        """The items at which the store can recognise the transcript."""
        found = self._unretracted(item_ids)
        if (named := self.named(transcript)) is None:
            return found
        paths = self._paths_of(named)
        return [item_id for item_id in found if item_id in paths]

    def _paths_of(self, conversation_id: str) -> set[str]:
        own = {item.item_id for item in self.items.values() if item.conversation_id == conversation_id}
        return own.union(self.path(self.conversations[conversation_id].inherited))

    def _unretracted(self, item_ids: Iterable[str]) -> list[str]:
        return [item_id for item_id in item_ids if item_id not in self._never_written and self.has_name(item_id)]


def _last_answer(path: Sequence[StoredItem]) -> Sequence[StoredItem]:
    start = len(path)
    while start and path[start - 1].is_answer and path[start - 1].response_id == path[-1].response_id:
        start -= 1
    return path[start:]


def is_same_answer(stored: Sequence[Meaning], sent: Sequence[Meaning]) -> bool:
    """Whether the sent answer counts as the stored answer. The sent answer must have the same calls, or no calls.

    One text must begin with the other, or the sent text must name the missing calls.
    """
    calls, sent_calls = [[item for item in answer if item[0] == "call"] for answer in (stored, sent)]
    if not stored or (sent_calls and sent_calls != calls):
        return False
    if [*stored] == [*sent]:
        return True
    text, sent_text = ["".join(item[2] for item in answer if item[:2] == ASSISTANT) for answer in (stored, sent)]
    if text and sent_text.startswith(text):
        added = sent_text[len(text) :]
        return added[:1] in ("\n", "<") or (len(text) >= MIN_COMMON_TEXT and not added[:1].isalnum())
    if len(sent_text) >= MIN_COMMON_TEXT and text.startswith(sent_text):
        return True
    return bool(calls) and not sent_calls and all(call[1] in sent_text for call in calls)


def contains_other(one: Meaning | None, other: Meaning) -> bool:
    """Whether the text of one message contains the text of the other. False for answers."""
    if one is None or one[0] != "message" or one[1] == "assistant" or one[:2] != other[:2]:
        return False
    shorter, longer = sorted(("".join(texts_of(message)) for message in (one, other)), key=len)
    return shorter != "" and shorter in longer


def texts_of(message: Meaning) -> list[str]:
    """The texts without the images, because clients leave out the images of old messages."""
    return [text for kind, text in zip(message[2::2], message[3::2], strict=True) if kind == "text"]
