"""Records transcripts in a log as the store does. The test gives the answers, and no provider is asked."""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from commands.new_conversations import leaf_after
from context.transcripts.known_messages import sent_messages
from context.transcripts.matching import Match, find_match
from context.transcripts.parsed import input_prefixes, parsed, transcript_end
from context.transcripts.prefix_hashes import answer_prefixes
from domain.commands import CompleteReply, NewItem, RequestReply, StartConversation
from domain.events import Fork, InputItem, ItemAppended, Leaf, Shown, Timing, Usage
from domain.items import Item, as_stored, id_prefix
from infrastructure.access.principal import Principal
from infrastructure.event_log.log import EventLog
from infrastructure.event_log.reader import EventReader
from infrastructure.ids import mint
from tests.event_log.appending import ANN, request
from tests.log import Log

Json = dict[str, Any]


def user(text: str) -> Json:
    return {"role": "user", "content": text}


def assistant(text: str) -> Json:
    return {"role": "assistant", "content": text}


class Turn(Struct, frozen=True):
    """A request: its conversation, its match, its response, and the last item of its answer."""

    conversation_id: str
    match: Match | None
    response_id: str
    answer_id: str

    @property
    def messages(self) -> int:
        """How many messages of the request were stored before."""
        return self.match.messages if self.match else 0


class Asking:
    """Asks on behalf of a principal. `last_items`: for each conversation, the last item of its newest answer."""

    def __init__(self, events: EventLog, reader: EventReader, log: Log) -> None:
        self.events = events
        self.reader = reader
        self.log = log
        self.last_items: dict[str, str] = {}

    async def match(
        self,
        messages: Sequence[Json],
        *,
        by: Principal = ANN,
        end_user: str | None = None,
        only_in: str | None = None,
    ) -> Match | None:
        transcript = parsed(sent_messages(messages), tenant=by.tenant, subject=by.subject, user=end_user)
        return await find_match(self.reader.of(by), transcript, only_in=only_in)

    async def ask(
        self,
        messages: Sequence[Json],
        answer: str | Sequence[Item],
        *,
        by: Principal = ANN,
        end_user: str | None = None,
        only_in: str | None = None,
        forks: bool = False,
    ) -> Turn:
        """Records a request with these messages, and its answer.

        If the transcript differs from what is stored, the request opens a branch. With `forks`, it makes a fork instead.
        """
        transcript = parsed(sent_messages(messages), tenant=by.tenant, subject=by.subject, user=end_user)
        match = await find_match(self.reader.of(by), transcript, only_in=only_in)
        start = after = None
        if match is None:
            start = _start(by)
        elif self.last_items[match.conversation_id] != match.item_id:
            reader, conversation_id = self.reader.of(by), match.conversation_id
            after = await leaf_after(reader, conversation_id, match.item_id, match.depth, match.read_version)
            if forks:
                start, after = _start(by, _fork_at(match, after)), None
        conversation_id = start.conversation_id if start else match.conversation_id if match else ""
        matched, answered = (match.items, match.answered) if match else (0, False)
        new = tuple(
            InputItem(item_id=mint(id_prefix(item)), item=as_stored(item))
            for item in [item for at in range(len(transcript.ends)) for item in transcript.message_items(at)][matched:]
        )
        response_id = mint("resp")
        shown = Shown(version=0, ranges=(), budget=1, tokens=1, encoding="e", renderer=6, request_sha256=b"")
        turn = RequestReply(
            response_id=response_id, model="m", parameters=b"{}", input=new, shown=shown, start=start, after=after
        )
        await self.events.append(request(conversation_id, turn, principal=by))
        items = [assistant(answer)] if isinstance(answer, str) else list(answer)
        output = [(mint(id_prefix(item)), item) for item in items]
        ids = [item.item_id for item in new]
        end = transcript_end(transcript, response_id)
        prefixes = (
            *input_prefixes(transcript, matched, ids, response_id, answered=answered),
            *answer_prefixes(end, output),
        )
        complete = CompleteReply(
            response_id=response_id,
            model="m",
            author="m",
            input=new,
            output=tuple(NewItem(item_id=item_id, item=as_stored(item)) for item_id, item in output),
            usage=Usage(),
            finish_reason="stop",
            timing=Timing(first_ms=1, total_ms=1),
            prefixes=prefixes,
        )
        await self.events.append(request(conversation_id, complete, principal=by))
        self.last_items[conversation_id] = output[-1][0]
        return Turn(conversation_id, match, response_id, output[-1][0])

    async def chat(self, *words: str, **options: Any) -> Turn:
        """Records a conversation. `words`: questions and answers in turns. Returns the last turn."""
        for index in range(0, len(words), 2):
            turn = await self.ask(turns(*words[: index + 1]), words[index + 1], **options)
        return turn

    def items(self, conversation_id: str) -> list[str]:
        """The ids of the conversation's own items."""
        return [event.item_id for event in self.log.events(conversation_id) if isinstance(event, ItemAppended)]


def turns(*words: str) -> list[Json]:
    """Messages of a user and an assistant in turns. The user begins."""
    return [assistant(text) if index % 2 else user(text) for index, text in enumerate(words)]


def _fork_at(match: Match, leaf: Leaf) -> Fork:
    return Fork(
        conversation_id=match.conversation_id,
        item_id=match.item_id,
        version=match.read_version,
        depth=match.depth,
        branches=leaf.path if leaf.path[-1].branch else (),
    )


def _start(by: Principal, fork: Fork | None = None) -> StartConversation:
    return StartConversation(
        conversation_id=mint("conv"), tenant=by.tenant, owner=by.subject, listed=False, forked_from=fork
    )
