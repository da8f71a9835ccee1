"""Plans a random walk: what a few chat clients send. Pure. The same seed gives the same plan.

The small vocabulary makes many messages equal.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace as replace_fields

from tests.end_to_end.walk_messages import Json, answer_text, reshaped

SUBJECTS = ("ann", "ann", "bob")
USERS = (None, None, None, "u1", "u2")
QUESTIONS = ("hi", "go on", "why?", "and then?", "ok")
ANSWERS = ("hello", "yes", "no", "it depends", "hello, what can I do for you?")
DECORATED = "Answer in one word:\n\n{}"
NAMES = ("a", "a", "my chat")
OUTPUTS = ("4", "sunny", "")
TOOLS = ("add", "weather")
INSTRUCTIONS: Sequence[Sequence[Json]] = (
    (),
    ({"role": "system", "content": "Be brief."},),
    ({"role": "system", "content": "Today is Monday."},),
    ({"role": "developer", "content": "Be kind."}, {"role": "system", "content": "Today is Tuesday."}),
)
IMAGE = "data:image/png;base64,iVBORw0KGgo="
MAX_CHATS = 8
MAX_MESSAGES = 30

Kind = Literal["begin", "continue", "repeat", "edit", "cut", "skip", "rewrite", "decorate", "paste"]


class Answer(Struct, frozen=True):
    """A planned answer of the provider. `calls`: (id, name, arguments) of each tool call."""

    text: str
    calls: tuple[tuple[str, str, str], ...] = ()
    reasoning: str = ""

    def message(self) -> Json:
        calls = [
            {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
            for call_id, name, arguments in self.calls
        ]
        message: Json = {"role": "assistant", "content": self.text or None}
        return message | ({"tool_calls": calls} if calls else {})


class PlannedRequest(Struct, frozen=True, kw_only=True):
    """A request of the plan. `messages`: sent after `instructions`. `api`: the process that gets the request.

    `name`: the client's own name of the conversation. `echoes`: the number of an earlier request. This
    request names the conversation of the earlier request by its id.
    """

    number: int
    kind: Kind
    subject: str
    user: str | None
    by_safety_identifier: bool
    name: str | None
    echoes: int | None
    instructions: Sequence[Json]
    messages: Sequence[Json]
    has_tools: bool
    stream: bool
    store: bool | None
    api: int
    answer: Answer


class Deletion(Struct, frozen=True):
    """Deletes an item or the conversation of the request `number`.

    `at`: the place of the item, from 0 (first) to below 1 (last). None: the conversation is deleted.
    """

    number: int
    at: float | None


class Kill(Struct, frozen=True):
    """The kill comes `seconds` after the provider has received `received` of the requests."""

    api: int
    received: int
    seconds: float


class Round(Struct, frozen=True, kw_only=True):
    """Requests that are sent at once. `hangs_up`: the clients disconnect before they have the answer.

    `repeats`: each request is sent again with its key.
    """

    requests: tuple[PlannedRequest, ...] = ()
    deletion: Deletion | None = None
    kill: Kill | None = None
    hangs_up: bool = False
    repeats: bool = False


@dataclass
class Chat:
    """A client's copy of its transcript. `sent_instead`: replaces the last message in the next request."""

    subject: str
    user: str | None
    name: str | None
    is_echoing: bool
    has_tools: bool
    instructions: Sequence[Json]
    messages: list[Json] = field(default_factory=list)
    number: int | None = None
    sent_instead: Json | None = None

    @property
    def is_answered(self) -> bool:
        return bool(self.messages) and self.messages[-1]["role"] == "assistant"

    def indexes(self, role: str) -> list[int]:
        return [index for index, message in enumerate(self.messages) if message["role"] == role]


class Planner:
    """Draws the rounds of a plan. `kills`: the probability that a round kills an api."""

    def __init__(self, seed: int, *, kills: float = 0.0, names: bool = False) -> None:
        self._rng = random.Random(seed)
        self._kills = kills
        self._names = names
        self._chats: list[Chat] = []
        self._count = 0

    def rounds(self, requests: int) -> list[Round]:
        rounds: list[Round] = []
        while self._count < requests:
            rounds.append(self._round())
        return rounds

    def _round(self) -> Round:
        rng = self._rng
        if rng.random() < self._kills:
            return self._killed_round()
        sent = [chat for chat in self._chats if chat.number is not None]
        if sent and rng.random() < 0.04:
            chat = rng.choice(sent)
            deletion = Deletion(chat.number or 0, rng.random() if rng.random() < 0.5 else None)
            running = (self._request(chat, is_answered=deletion.at is not None),) if rng.random() < 0.3 else ()
            return Round(requests=running, deletion=deletion)
        chat = self._chat()
        if rng.random() < 0.02:
            return Round(requests=(self._request(chat, is_answered=False),), hangs_up=True)
        repeats = rng.random() < 0.03
        if chat.messages and rng.random() < 0.1:
            return Round(requests=self._at_once(chat), repeats=repeats)
        return Round(requests=(self._request(chat, is_answered=True),), repeats=repeats)

    def _killed_round(self) -> Round:
        rng = self._rng
        api = rng.randint(0, 1)
        chats = rng.sample(self._chats, min(len(self._chats), rng.randint(2, 4))) or [self._new_chat()]
        requests = [self._request(chat, is_answered=n > 0 and n == len(chats) - 1) for n, chat in enumerate(chats)]
        at = [api] * len(requests) if len(requests) == 1 else [*[api] * (len(requests) - 1), 1 - api]
        requests = [replace_fields(request, api=where) for request, where in zip(requests, at, strict=True)]
        return Round(requests=tuple(requests), kill=Kill(api, rng.randint(0, len(requests)), rng.uniform(0, 0.02)))

    def _at_once(self, chat: Chat) -> tuple[PlannedRequest, ...]:
        rng = self._rng
        twins = [chat, *(replace(chat, messages=[*chat.messages]) for _ in range(rng.randint(1, 2)))]
        if rng.random() < 0.5:
            first = self._request(chat, is_answered=False)
            others = []
            for twin in twins[1:]:
                twin.messages = [*chat.messages]
                twin.instructions = chat.instructions
                others.append(self._repeat(twin, first))
            for twin, request in zip(twins, [first, *others], strict=True):
                twin.messages.append(request.answer.message())
            requests = [first, *others]
        else:
            requests = [self._request(twin, is_answered=True) for twin in twins]
        for twin in twins[1:]:
            self._keep(twin)
        return tuple(requests)

    def _repeat(self, chat: Chat, request: PlannedRequest) -> PlannedRequest:
        return self._sent(chat, request.kind, request.messages if self._rng.random() < 0.5 else chat.messages)

    def _chat(self) -> Chat:
        if not self._chats or self._rng.random() < 0.1:
            return self._new_chat()
        return self._rng.choice(self._chats)

    def _new_chat(self) -> Chat:
        rng = self._rng
        chat = Chat(
            subject=rng.choice(SUBJECTS),
            user=rng.choice(USERS),
            name=rng.choice(NAMES) if self._names and rng.random() < 0.15 else None,
            is_echoing=self._names and rng.random() < 0.1,
            has_tools=rng.random() < 0.3,
            instructions=rng.choice(INSTRUCTIONS),
        )
        if self._chats and rng.random() < 0.4:  # another person's words, or a second window
            other = rng.choice(self._chats)
            chat.messages = [*other.messages]
            if rng.random() < 0.7:
                chat.subject = "bob" if other.subject == "ann" else "ann"
                chat.user = other.user
        self._keep(chat)
        return chat

    def _keep(self, chat: Chat) -> None:
        self._chats.append(chat)
        if len(self._chats) > MAX_CHATS:
            self._chats.pop(self._rng.randrange(len(self._chats) - 1))

    def _request(self, chat: Chat, *, is_answered: bool) -> PlannedRequest:
        rng = self._rng
        if rng.random() < 0.1:
            chat.instructions = rng.choice(INSTRUCTIONS)
        kind: Kind = "paste" if chat.messages and chat.number is None else "begin"
        if chat.messages:
            changes = [each for each in self._changes() if self._is_possible(each, chat)]
            name, change, _ = rng.choices(changes, [weight for _, _, weight in changes])[0]
            change(chat)
            kind = name if kind == "begin" else kind
        else:
            self._ask(chat)
        if len(chat.messages) > MAX_MESSAGES and len(chat.indexes("user")) > 1:
            self._cut(chat)
        instead, chat.sent_instead = chat.sent_instead, None
        request = self._sent(chat, kind, [*chat.messages[:-1], instead] if instead else chat.messages)
        if is_answered:
            chat.messages = [*chat.messages, request.answer.message()]
        return request

    def _sent(self, chat: Chat, kind: Kind, messages: Sequence[Json]) -> PlannedRequest:
        rng = self._rng
        echoes = chat.number if chat.is_echoing and chat.name is None else None
        chat.number = self._count
        self._count += 1
        return PlannedRequest(
            number=chat.number,
            kind=kind,
            subject=chat.subject,
            user=chat.user,
            by_safety_identifier=rng.random() < 0.5,
            name=chat.name,
            echoes=echoes,
            instructions=chat.instructions,
            messages=reshaped(messages, rng) if rng.random() < 0.4 else [*messages],
            has_tools=chat.has_tools,
            stream=rng.random() < 0.5,
            store=rng.choices((None, True, False), (20, 4, 1))[0],
            api=rng.randint(0, 1),
            answer=self._answer(chat),
        )

    def _answer(self, chat: Chat) -> Answer:
        rng = self._rng
        calls: list[tuple[str, str, str]] = []
        if chat.has_tools and rng.random() < 0.4:
            ids = rng.sample(range(1, 4), rng.randint(1, 2))
            calls = [(f"call_{n}", rng.choice(TOOLS), rng.choice(("{}", '{"a":1}'))) for n in ids]
        text = "" if calls and rng.random() < 0.6 else rng.choice((*ANSWERS, f"answer {self._count}"))
        if rng.random() < 0.15:
            text = f"<think>hm</think>\n\n{text}"
        if text and rng.random() < 0.1:
            text = f" {text}\n"
        return Answer(text, tuple(calls), rng.choice(("", "", "", "let me see")))

    # The changes that a client makes to its transcript before it sends a request.

    def _changes(self) -> Sequence[tuple[Kind, Callable[[Chat], None], int]]:
        return (
            ("continue", self._continue, 40),
            ("repeat", self._drop_answer, 16),
            ("edit", self._edit, 12),
            ("cut", self._cut, 8),
            ("skip", self._skip, 4),
            ("rewrite", self._rewrite, 8),
            ("decorate", self._decorate, 6),
        )

    def _is_possible(self, change: tuple[Kind, Callable[[Chat], None], int], chat: Chat) -> bool:
        questions = len(chat.indexes("user"))
        match change[0]:
            case "repeat":
                return len(chat.messages) > 1 or not chat.is_answered
            case "cut":
                return questions > 1
            case "skip":
                return questions > 2
            case "rewrite":
                return bool(self._rewritable(chat))
            case _:
                return True

    def _continue(self, chat: Chat) -> None:
        """Adds the outputs of called tools, a question, or both."""
        calls = chat.messages[-1].get("tool_calls") or []
        chat.messages = [
            *chat.messages,
            *({"role": "tool", "tool_call_id": call["id"], "content": self._rng.choice(OUTPUTS)} for call in calls),
        ]
        if not calls or self._rng.random() < 0.2:
            self._ask(chat)

    def _ask(self, chat: Chat) -> None:
        rng = self._rng
        if chat.messages and rng.random() < 0.05:
            chat.messages = [*chat.messages, {"role": "system", "content": "Go slow."}]
        text = rng.choice(QUESTIONS)
        content: str | list[Json] = text
        if rng.random() < 0.06:
            content = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": IMAGE}}]
        chat.messages = [*chat.messages, {"role": "user", "content": content}]

    def _drop_answer(self, chat: Chat) -> None:
        """A regeneration, or a repeat after a lost answer."""
        while chat.is_answered:
            chat.messages = chat.messages[:-1]

    def _edit(self, chat: Chat) -> None:
        chat.messages = chat.messages[: self._rng.choice(chat.indexes("user"))]
        self._ask(chat)

    def _cut(self, chat: Chat) -> None:
        chat.messages = chat.messages[self._rng.choice(chat.indexes("user")[1:]) :]
        self._continue_or_repeat(chat)

    def _skip(self, chat: Chat) -> None:
        """Some clients keep only the first question and the newest messages."""
        questions = chat.indexes("user")
        chat.messages = [*chat.messages[: questions[1]], *chat.messages[self._rng.choice(questions[2:]) :]]
        self._continue_or_repeat(chat)

    def _rewrite(self, chat: Chat) -> None:
        index = self._rng.choice(self._rewritable(chat))
        text = chat.messages[index]["content"]
        texts = [*ANSWERS, "[removed]", f"{text}</done>", text[: len(text) * 2 // 3]]
        texts = [text for text in texts if answer_text(text) or "tool_calls" in chat.messages[index]]
        rewritten = {**chat.messages[index], "content": self._rng.choice(texts)}
        chat.messages = [*chat.messages[:index], rewritten, *chat.messages[index + 1 :]]
        self._continue_or_repeat(chat)

    def _decorate(self, chat: Chat) -> None:
        """The client's copy keeps the plain question."""
        self._continue_or_repeat(chat)
        last = chat.messages[-1]
        if last["role"] == "user" and isinstance(last["content"], str):
            chat.sent_instead = {**last, "content": DECORATED.format(last["content"])}

    @staticmethod
    def _rewritable(chat: Chat) -> list[int]:
        return [index for index in chat.indexes("assistant")[:-1] if chat.messages[index]["content"]]

    def _continue_or_repeat(self, chat: Chat) -> None:
        if chat.is_answered and self._rng.random() < 0.8:
            self._continue(chat)
        else:
            self._drop_answer(chat)
