"""Finds the last item that a transcript and the log have in common.

1. The longest known prefix of the transcript is looked up by its hash.

2. If that prefix ends before the last answer, the client may have changed something before the answer. Then the
answer is looked up, and the messages before it are compared with the path to the answer that was found.

3. If nothing is found in a conversation that the client named, its active path is compared with the transcript.

A match must contain an answer of this store, except in a conversation that the client named.
"""

from collections.abc import Iterable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from context.branch_paths import active_segment
from context.forks import read_path
from context.transcripts.parsed import ParsedTranscript
from context.transcripts.path_messages import Aligned, PathMessages, align, align_gaps
from context.transcripts.prefix_hashes import Chain, answer_hash, text_of_message, turn_hash
from context.transcripts.rewritten import is_rewritten_answer, is_rewritten_question
from domain.events import REPLY_ENDS, ItemAppended, TranscriptBase
from domain.items import from_stored
from domain.paths import Path, PathSegment
from infrastructure.event_log.reader import FoundPrefix, PrincipalReader

NEWEST_MESSAGES = 16
"""Prefixes that end with one of the newest messages are looked up first."""

MAX_CANDIDATES = 8
"""The log may have the same answer in several places. At most this many are compared with the transcript."""

MAX_ANSWERS = 3
"""At most this many of the last answers are looked up, because the last one may come from elsewhere."""

MAX_REWRITTEN = 3
"""The log may have the same prefix in several places. At most this many are searched for a rewritten answer."""

_ANSWER_EVENTS = 50
_VERIFIED_EVENTS = 200


class Match(Struct, frozen=True, kw_only=True):
    """The item after which a transcript continues.

    `conversation_id`: the one that the client named, or the item's. `messages`, `items`: how many the transcript has up
    to this item. `answered`: whether one of them is an answer of this store. `base`: an earlier request with exactly
    the first messages of the transcript. `aligned`: for each message, the (id, item) of the path's items that it stands
    for, perhaps with differences. Empty if unknown, or if the message is part of `base`. `read_version`: the
    conversation's version when the match was looked for.
    """

    conversation_id: str
    item_id: str
    depth: int
    messages: int
    items: int
    answered: bool
    read_version: int
    base: TranscriptBase | None
    aligned: Sequence[Aligned]


async def find_match(
    reader: PrincipalReader, transcript: ParsedTranscript, *, only_in: str | None = None
) -> Match | None:
    """None if the transcript continues nothing in the log. `only_in`: search only this conversation's paths."""
    if only_in is not None:
        head = await reader.readable_head(only_in)
        if head is None or not transcript.ends:
            return None
        search = _Search(reader, transcript, await read_path(reader, PathSegment(only_in, head.version)))
        return await search.match() or await search.match_of_named_path()
    if not any(map(transcript.is_answer, range(len(transcript.ends)))):
        return None
    return await _Search(reader, transcript).match()


async def longest_prefix(reader: PrincipalReader, transcript: ParsedTranscript) -> tuple[int, FoundPrefix] | None:
    """The longest known prefix with an answer of this store, and its number of messages."""
    if not any(map(transcript.is_answer, range(len(transcript.ends)))):
        return None
    return await _Search(reader, transcript).longest_prefix()


class _Search:
    """Searches the log for one transcript.

    `named`: the path along the first branch of the conversation that the client named.
    """

    def __init__(self, reader: PrincipalReader, transcript: ParsedTranscript, named: Path | None = None) -> None:
        self._reader = reader
        self._transcript = transcript
        self._named = named
        self._branches: dict[str, int] = {}
        self._prefixes: dict[int, list[FoundPrefix]] = {}

    async def match(self) -> Match | None:
        longest = await self._look_up_newest()
        answers = [index for index in range(len(self._transcript.ends)) if self._transcript.is_answer(index)]
        if longest is None or (answers and longest < answers[-1]):
            if (later := await self._changed_before(answers, longest)) is not None:
                return await self._match_at(*later)
        if longest is None:
            return None
        return await self._match_at(longest, await self._best(self._usable(self._prefixes[longest])))

    async def longest_prefix(self) -> tuple[int, FoundPrefix] | None:
        longest = await self._look_up_newest()
        return None if longest is None else (longest + 1, await self._best(self._usable(self._prefixes[longest])))

    async def match_of_named_path(self) -> Match | None:
        """Used if no prefix is known.

        The active path and the transcript must share two messages in a row, or their first message.
        """
        assert self._named is not None
        transcript, named = self._transcript, self._named.end
        end = await active_segment(self._reader, named.conversation_id, named.version)
        path = PathMessages(self._reader, end)
        hashes = [transcript.hash_of(index) for index in range(len(transcript.ends))]
        position = 0
        while (message := await path.get(position)) is not None and position < _VERIFIED_EVENTS:
            before = await path.get(position + 1)
            for index in reversed(range(len(hashes))):
                agrees = before is None if index == 0 else before is not None and hashes[index - 1] == before.hash
                if hashes[index] == message.hash and agrees:
                    common = PathMessages(self._reader, end.up_to(message.depth))
                    return await self._match(index, common, item_id=message.items[-1][0], depth=message.depth)
            position += 1
        return None

    async def _look_up_newest(self) -> int | None:
        count = len(self._transcript.ends)
        await self._look_up(range(max(0, count - NEWEST_MESSAGES), count))
        if self._longest() is None and count > NEWEST_MESSAGES:
            await self._look_up(range(count - NEWEST_MESSAGES))
        return self._longest()

    async def _look_up(self, messages: Iterable[int]) -> None:
        transcript = self._transcript
        indices = list(messages)
        for prefix in await self._allowed([transcript.chain_after(index).hash for index in indices]):
            self._prefixes.setdefault(indices[prefix.number], []).append(prefix)

    async def _allowed(self, hashes: Sequence[bytes]) -> list[FoundPrefix]:
        """If the client named a conversation: only prefixes in this conversation, and in the path that it inherits."""
        found = await self._reader.prefixes_with(hashes) if hashes else []
        if (named := self._named) is None:
            return found
        conversation_id = named.end.conversation_id
        return [
            prefix for prefix in found if prefix.conversation_id == conversation_id or await self._is_on(named, prefix)
        ]

    async def _is_on(self, path: Path, prefix: FoundPrefix) -> bool:
        conversation_id = prefix.conversation_id
        if conversation_id not in path.conversations:
            return False
        if prefix.branch is None and prefix.item_id not in self._branches:
            rows = await self._reader.items(conversation_id, [prefix.item_id])
            appended = (row.event for row in rows if isinstance(row.event, ItemAppended))
            self._branches |= {event.item_id: event.branch for event in appended}
        branch = self._branches.get(prefix.item_id) if prefix.branch is None else prefix.branch
        return branch is not None and path.contains(conversation_id, branch, prefix.depth, prefix.version)

    def _usable(self, prefixes: Iterable[FoundPrefix]) -> list[FoundPrefix]:
        """The prefixes with an answer of this store. If the client named a conversation: all."""
        return [prefix for prefix in prefixes if prefix.answered or self._named is not None]

    def _longest(self) -> int | None:
        return max((index for index, found in self._prefixes.items() if self._usable(found)), default=None)

    async def _best(self, prefixes: Sequence[FoundPrefix]) -> FoundPrefix:
        """Chooses one of several prefixes with equal messages.

        The caller's own conversations that are not shared come first, then prefixes that no item follows, then the newest.
        """
        prefixes = [prefix for prefix in prefixes if prefix.is_private] or prefixes
        if len(prefixes) == 1:
            return prefixes[0]
        followed = await self._reader.are_followed(prefixes)
        return next(
            (prefix for prefix, is_followed in zip(prefixes, followed, strict=True) if not is_followed), prefixes[0]
        )

    async def _changed_before(self, answers: Sequence[int], longest: int | None) -> tuple[int, FoundPrefix] | None:
        """An answer of this store that comes later than the longest known prefix.

        Returns (message index, prefix), moved forward if later messages also follow in the log.
        """
        least = -1 if longest is None else longest
        found = await self._found_by_answer([index for index in answers if index > least], longest)
        if found is None or found[0] < answers[-1]:
            rewritten = await self._rewritten_answer()
            if rewritten is not None and (found is None or rewritten[0] > found[0]):
                found = rewritten
        return None if found is None else await self._extended(*found)

    async def _rewritten_answer(self) -> tuple[int, FoundPrefix] | None:
        """The answer after the longest known prefix, if the client wrote it differently."""
        transcript = self._transcript
        last = max(self._prefixes, default=None)
        if last is None or last + 1 == len(transcript.ends) or not transcript.is_answer(last + 1):
            return None
        sent = transcript.message_items(last + 1)
        for prefix in self._prefixes[last][:MAX_REWRITTEN]:
            for answer in await self._next_answers(prefix):
                items = [from_stored(event.item) for event, _ in answer]
                if is_rewritten_answer(text_of_message(items), items, sent):
                    event, version = answer[-1]
                    end = replace(
                        prefix,
                        item_id=event.item_id,
                        depth=event.depth,
                        version=version,
                        branch=event.branch,
                        answered=True,
                    )
                    return last + 1, replace(end, messages=0, exact=b"")
        return None

    async def _next_answers(self, prefix: FoundPrefix) -> list[list[tuple[ItemAppended, int]]]:
        """The answers that directly follow a prefix, without those that have a deleted item."""
        page = await self._reader.conversation(prefix.conversation_id, after=prefix.version, limit=_ANSWER_EVENTS)
        # The input of a request may contain an answer from elsewhere. Only output is an answer of this store.
        ends = [recorded.event for recorded in page if isinstance(recorded.event, REPLY_ENDS)]
        outputs = {item_id for end in ends for item_id in end.output_ids}
        answers: dict[str | None, list[tuple[ItemAppended, int]]] = {}
        for recorded in page:
            if isinstance(event := recorded.event, ItemAppended) and event.item_id in outputs:
                before = answers.pop(event.parent_id, [])
                if before or event.parent_id == prefix.item_id:
                    answers[event.item_id] = [*before, (event, recorded.version)]
        deleted = await self._reader.deleted_items([event.item_id for each in answers.values() for event, _ in each])
        return [each for each in reversed(answers.values()) if not deleted & {event.item_id for event, _ in each}]

    async def _found_by_answer(self, answers: Sequence[int], longest: int | None) -> tuple[int, FoundPrefix] | None:
        """The last of `answers` whose path agrees with the transcript, as (message index, prefix).

        Each answer has two hashes: with the item before it, and alone.
        """
        transcript = self._transcript
        newest_first = list(reversed(answers[-MAX_ANSWERS:]))
        hashes = [
            hashed
            for index in newest_first
            for hashed in (
                turn_hash(transcript.chain_before(index), transcript.message_items(index)),
                answer_hash(transcript.first, transcript.message_items(index)),
            )
        ]
        found = await self._allowed(hashes)
        for number, index in enumerate(newest_first):
            possible = [prefix for prefix in found if prefix.number // 2 == number]
            if (prefix := await self._agreeing(index, possible, longest)) is not None:
                return index, prefix
        return None

    async def _agreeing(self, index: int, prefixes: Sequence[FoundPrefix], longest: int | None) -> FoundPrefix | None:
        """The prefix whose path agrees best with the messages before the answer.

        First an agreeing question counts, then the number of equal messages, then how close together they are.
        """
        unique: dict[tuple[str, int], FoundPrefix] = {}
        for prefix in prefixes:
            unique.setdefault((prefix.conversation_id, prefix.version), prefix)
        ranked: dict[tuple[bool, int, int], list[FoundPrefix]] = {}
        for prefix in list(unique.values())[:MAX_CANDIDATES]:
            path = await PathMessages.up_to(self._reader, prefix.conversation_id, prefix.version, _VERIFIED_EVENTS)
            if longest is not None and not await self._is_after(path.end, longest):
                continue
            alignment = await align(path, self._transcript, index + 1, max(0, index - _VERIFIED_EVENTS))
            question_agrees = await self._question_agrees(path, index)
            if index == 0 or alignment.equal > 1 or question_agrees:
                rank = (question_agrees, alignment.equal, -alignment.length)
                ranked.setdefault(rank, []).append(prefix)
        return await self._best(ranked[max(ranked)]) if ranked else None

    async def _question_agrees(self, path: PathMessages, index: int) -> bool:
        """The question may be written differently."""
        question = await path.get(1)
        if index == 0 or question is None:
            return False
        sent = self._transcript
        return question.hash == sent.hash_of(index - 1) or is_rewritten_question(
            question.text, sent.message_items(index - 1)
        )

    async def _is_after(self, end: PathSegment, longest: int) -> bool:
        path = await read_path(self._reader, end)
        for prefix in self._usable(self._prefixes[longest]):
            if await self._is_on(path, prefix):
                return True
        return False

    async def _extended(self, index: int, prefix: FoundPrefix) -> tuple[int, FoundPrefix]:
        """Moves a match forward if the messages after `index` also follow `prefix`, or an equal answer, in the log."""
        transcript = self._transcript
        later = range(index + 1, len(transcript.ends))
        if not later:
            return index, prefix
        hashes: list[bytes] = []
        for hashed in await self._reader.hashes_of(prefix):
            start = Chain(hashed, b"", transcript.first.seed)
            hashes += [chain.hash for chain in transcript.chains_from(index + 1, start)]
        found = self._usable(await self._allowed(hashes))
        answers = await self._equal_answers(prefix) if found else []
        for last in sorted({prefix.number % len(later) for prefix in found}, reverse=True):
            ends = [end for end in found if end.number % len(later) == last][:MAX_CANDIDATES]
            following = [end for end in ends if await self._follows(end, answers)]
            if following:
                return later[last], await self._best(following)
        return index, prefix

    async def _equal_answers(self, answer: FoundPrefix) -> list[FoundPrefix]:
        """`answer`, and other answers with the same words and the same messages before them.

        An equal answer has all hashes of `answer`. A message that a client sent has only one hash.
        """
        hashes = await self._reader.hashes_of(answer)
        equal: dict[tuple[str, int], list[FoundPrefix]] = {}
        for prefix in await self._allowed(hashes):
            equal.setdefault((prefix.conversation_id, prefix.version), []).append(prefix)
        return [answer, *(prefixes[0] for prefixes in equal.values() if len(prefixes) == len(hashes))]

    async def _follows(self, end: FoundPrefix, answers: Sequence[FoundPrefix]) -> bool:
        messages = await PathMessages.up_to(self._reader, end.conversation_id, end.version)
        path = await read_path(self._reader, messages.end)
        for answer in answers:
            if await self._is_on(path, answer):
                return True
        return False

    async def _match_at(self, index: int, prefix: FoundPrefix) -> Match:
        path = await PathMessages.up_to(self._reader, prefix.conversation_id, prefix.version)
        base = await self._base(path.end, index)
        match = await self._match(index, path, item_id=prefix.item_id, depth=prefix.depth, base=base)
        read_version = match.read_version if self._named else prefix.read_version
        return replace(match, answered=prefix.answered, read_version=read_version)

    async def _match(
        self, index: int, path: PathMessages, *, item_id: str, depth: int, base: TranscriptBase | None = None
    ) -> Match:
        end = self._named.end if self._named else path.end
        count = index + 1
        since = base.count if base else 0
        aligned: list[Aligned] = [()] * count
        if since < count:
            aligned = (await align(path, self._transcript, count, since)).items
            await align_gaps(path, self._transcript, aligned, since)
        return Match(
            conversation_id=end.conversation_id,
            item_id=item_id,
            depth=depth,
            messages=count,
            items=self._transcript.ends[index],
            answered=False,
            read_version=end.version,
            base=base,
            aligned=aligned,
        )

    async def _base(self, end: PathSegment, index: int) -> TranscriptBase | None:
        """The longest earlier request that has exactly the first messages of the transcript, at most up to `index`."""
        possible = [
            prefix
            for prefixes in self._prefixes.values()
            for prefix in prefixes
            if prefix.conversation_id == end.conversation_id
            and prefix.response_id is not None
            and 0 < prefix.messages <= index + 1
            and self._transcript.exact[prefix.messages - 1] == prefix.exact
        ]
        for prefix in sorted(possible, key=lambda prefix: prefix.messages, reverse=True):
            assert prefix.response_id is not None
            if prefix.version == end.version or await self._is_on(Path((end,)), prefix):
                return TranscriptBase(
                    conversation_id=end.conversation_id, response_id=prefix.response_id, count=prefix.messages
                )
        return None
