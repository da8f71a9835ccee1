"""Requests a reply to a transcript. The model is sent exactly the transcript's messages."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial

import msgspec
from msgspec import UNSET, Struct
from msgspec.structs import replace

from commands.bodies import new_item
from commands.chat_body import CreateChatCompletion
from commands.chat_target import ChatTarget, branch_target, find_chat_target, fork_target
from commands.command_route import CommandContext
from commands.request_reply import resolve_model
from commands.response_body import MAX_INPUT_ITEMS, MAX_REQUEST_BYTES
from commands.start_reply import Reply, append_and_start, request_unless_repeated, start_reply
from context.assembly import Context
from context.transcripts.parsed import ParsedTranscript, input_prefixes, parsed, transcript_end
from context.transcripts.prefix_hashes import answer_prefixes, name_prefix
from context.transcripts.record import recorded_transcript
from domain.commands import AppendItems, DeleteConversation, NewItem, Prefix, RequestReply
from domain.errors import (
    ConversationIsEnded,
    ConversationLocked,
    ConversationNotFound,
    HeadHasMoved,
    Refused,
    TooManyBranches,
)
from domain.events import InputItem, Transcript
from domain.items import Item
from infrastructure.event_log.append_request import LogUnavailable
from infrastructure.http.errors import ApiError
from infrastructure.ids import RESPONSE, mint
from replies.reply_end import PrefixesOf

MAX_ATTEMPTS = 3
MAX_NEW_ON_LOOP = 1_000
"""A transcript with more unknown messages is parsed in a thread. For fewer, a thread would take longer."""

CHUNK_ITEMS, CHUNK_BYTES = 100, 1024 * 1024
"""The maximum for one append of a long history. A larger append would delay others. A larger item has its own append."""


class ChatRequest(Struct, frozen=True):
    transcript: ParsedTranscript
    model: str
    parameters: bytes
    context: Context


class NewMessages(Struct, frozen=True, kw_only=True):
    """The messages that the conversation does not have yet, as items.

    `ends`: for each message, how many items it and the new messages before it have together.
    """

    items: Sequence[NewItem]
    ends: Sequence[int]

    @property
    def ids(self) -> list[str]:
        return [new.item_id for new in self.items]

    @property
    def ids_of_messages(self) -> list[list[str]]:
        ids = self.ids
        return [ids[start:end] for start, end in zip((0, *self.ends), self.ends, strict=False)]

    @property
    def is_large(self) -> bool:
        return len(self.items) > MAX_INPUT_ITEMS or sum(len(new.item) for new in self.items) > MAX_REQUEST_BYTES


async def request_chat_reply(context: CommandContext, body: CreateChatCompletion, *, stored: bool) -> Reply:
    return await request_unless_repeated(context, lambda: _request(context, body, stored=stored), stored=stored)


async def _request(context: CommandContext, body: CreateChatCompletion, *, stored: bool) -> Reply:
    model = await resolve_model(context, body.model)
    parameters = body.recorded_parameters()
    assemble = partial(
        context.dependencies.contexts.assemble_transcript, model=model, parameters=parameters, sent=body.sent_messages
    )
    encoded = msgspec.json.encode(parameters)
    if not stored:
        return await _request_unstored(context, model, encoded, await assemble())
    transcript = await _parsed(context, body)
    # The context is assembled while Postgres looks for the match.
    target, model_context = await asyncio.gather(find_chat_target(context, transcript), assemble())
    request = ChatRequest(transcript, model, encoded, model_context)
    for _ in range(MAX_ATTEMPTS - 1):
        with suppress(ConversationNotFound):  # the conversation was deleted after it was compared
            return await _request_at(context, request, target)
        target = await find_chat_target(context, transcript)
    return await _request_at(context, request, target)


async def _parsed(context: CommandContext, body: CreateChatCompletion) -> ParsedTranscript:
    sent, known_messages = body.sent_messages, context.dependencies.shared_contexts.known_messages
    parse = partial(
        parsed,
        sent,
        tenant=context.principal.tenant,
        subject=context.principal.subject,
        user=body.safety_identifier or body.user,
        known_messages=known_messages,
    )
    return await asyncio.to_thread(parse) if sent.are_known.count(False) > MAX_NEW_ON_LOOP else parse()


async def _request_unstored(context: CommandContext, model: str, parameters: bytes, model_context: Context) -> Reply:
    command = RequestReply(
        response_id=mint(RESPONSE),
        model=model,
        parameters=parameters,
        input=(),
        shown=model_context.shown,
        transcript=Transcript(),
    )
    return start_reply(context, command, model_context)


async def _request_at(context: CommandContext, request: ChatRequest, target: ChatTarget) -> Reply:
    """If an existing conversation refuses, tries a branch after the match, and then a fork.

    Without a match, an ended conversation raises ConversationIsEnded. After another refusal, tries only a fork.
    """
    try:
        return await _append_request(context, request, target)
    except (ConversationLocked, HeadHasMoved, ConversationIsEnded, TooManyBranches) as refusal:
        is_only_named = target.match is None
        if target.start is not None or (is_only_named and isinstance(refusal, ConversationIsEnded)):
            raise
    if target.match is not None:
        with suppress(ConversationLocked, ConversationIsEnded, TooManyBranches):
            return await _append_request(context, request, await branch_target(context, target, target.match))
    return await _append_request(context, request, await fork_target(context, target))


async def _append_request(context: CommandContext, request: ChatRequest, target: ChatTarget) -> Reply:
    transcript = request.transcript
    new = _new_messages(transcript, target)
    if not new.is_large:
        return await _append_with_input(context, request, target, new, stored=0)
    history_items = _start_of_last_turn(transcript, target, new)
    target = target if target.start is not None else await fork_target(context, target)
    try:
        history_target = await _append_history(context, transcript, target, new.items[:history_items])
        reply = await _append_with_input(context, request, history_target, new, stored=history_items)
    except Exception as error:
        if not (isinstance(error, ApiError) and error.response_id):  # the reply is not on record
            await _delete_history(context, target)
        raise
    if reply.conversation_id != target.conversation_id:  # another request with the same idempotency key was first
        await _delete_history(context, target)
    return reply


async def _delete_history(context: CommandContext, target: ChatTarget) -> None:
    """Deletes the new conversation, which may have a history but has no reply."""
    with suppress(Refused, LogUnavailable):
        await replace(context, if_match=None).append(target.conversation_id, DeleteConversation())


async def _append_with_input(
    context: CommandContext, request: ChatRequest, target: ChatTarget, new: NewMessages, *, stored: int
) -> Reply:
    """The first `stored` new items are in the conversation already."""
    transcript = request.transcript
    record = recorded_transcript(transcript, target.match, new.ids_of_messages)
    command = RequestReply(
        response_id=mint(RESPONSE),
        model=request.model,
        parameters=request.parameters,
        input=tuple(InputItem(item_id=entry.item_id, item=entry.item) for entry in new.items[stored:]),
        shown=request.context.shown,
        start=target.start,
        expected_head=target.expected_head,
        after=target.leaf,
        alone=target.leaf is not None,
        transcript=record,
        lists=target.start is None and not stored,
    )
    prefixes = _prefixes(transcript, target, new.ids, stored, command.response_id)
    return await append_and_start(context, command, request.context, target.conversation_id, prefixes=prefixes)


def _new_messages(transcript: ParsedTranscript, target: ChatTarget) -> NewMessages:
    """Raises ApiError (400, 413) for an item that cannot be stored."""
    match = target.match
    first_message, first_item = (match.messages, match.items) if match else (0, 0)
    items: list[NewItem] = []
    for message in range(first_message, len(transcript.messages)):
        param = f"messages[{len(transcript.instructions) + message}]"
        items += [new_item(item, param) for item in transcript.message_items(message)]
    return NewMessages(items=items, ends=[end - first_item for end in transcript.ends[first_message:]])


def _prefixes(
    transcript: ParsedTranscript, target: ChatTarget, new_ids: Sequence[str], stored: int, response_id: str
) -> PrefixesOf:
    """The prefixes by which the next transcript is recognised."""
    matched, answered = _matched(target)
    read_version = target.read_version
    of_input = input_prefixes(
        transcript, matched + stored, new_ids[stored:], response_id, answered=answered, read_version=read_version
    )
    end = transcript_end(transcript, response_id, read_version=read_version)

    def prefixes(output: Sequence[tuple[str, Item]]) -> tuple[Prefix, ...]:
        last_id = output[-1][0] if output else next(iter(reversed(new_ids)), None)
        named = (
            (name_prefix(target.name_hash, last_id, response_id),)
            if target.name_hash is not None and last_id is not None
            else ()
        )
        return (*of_input, *answer_prefixes(end, output), *named)

    return prefixes


def _matched(target: ChatTarget) -> tuple[int, bool]:
    """How many items the match covers, and whether one of them is an answer of this store."""
    return (target.match.items, target.match.answered) if target.match else (0, False)


def _start_of_last_turn(transcript: ParsedTranscript, target: ChatTarget, new: NewMessages) -> int:
    """How many new items come before the last turn, which begins with a user message.

    Raises ApiError (413) if this turn is too large, or if no new message is a user's.
    """
    first = target.match.messages if target.match else 0
    starts = [0, *new.ends]
    for number in range(len(new.ends) - 1, -1, -1):
        if transcript.messages[first + number]["role"] == "user":
            last_turn = NewMessages(items=new.items[starts[number] :], ends=())
            if not last_turn.is_large:
                return starts[number]
            break
    message = f"The last turn in `messages` has more than {MAX_INPUT_ITEMS} items or {MAX_REQUEST_BYTES} bytes."
    raise ApiError(413, message, code="request_too_large", param="messages")


async def _append_history(
    context: CommandContext, transcript: ParsedTranscript, target: ChatTarget, history: Sequence[NewItem]
) -> ChatTarget:
    """Starts the conversation, and appends the history in chunks. Returns the target after the history."""
    context = replace(context, if_match=None)
    assert target.start is not None
    await context.append(target.conversation_id, target.start)
    matched, answered = _matched(target)
    done = version = 0
    for chunk in _chunks(history):
        ids = [new.item_id for new in chunk]
        prefixes = input_prefixes(transcript, matched + done, ids, None, answered=answered)
        command = AppendItems(items=tuple(chunk), author=context.principal.subject, prefixes=prefixes)
        version = (await context.append(target.conversation_id, command)).version
        done += len(chunk)
    expected_head = history[-1].item_id if history else UNSET
    return replace(target, start=None, expected_head=expected_head, read_version=version or None)


def _chunks(items: Sequence[NewItem]) -> Iterator[list[NewItem]]:
    chunk: list[NewItem] = []
    size = 0
    for new in items:
        if chunk and (len(chunk) == CHUNK_ITEMS or size + len(new.item) > CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(new)
        size += len(new.item)
    if chunk:
        yield chunk
