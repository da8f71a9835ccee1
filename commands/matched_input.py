"""Finds the conversation whose history a Responses request repeats in its `input`.

A match is used only if its path is exactly what the client sent, because the model is shown the path.
"""

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from commands.command_route import CommandContext
from commands.given_items import GivenItem, ItemReference
from commands.new_conversations import fork_at, leaf_after, start_of
from commands.readable_items import find_items
from commands.reply_target import ReplyTarget
from commands.response_body import CreateResponse
from context.conversation_settings import settings_at
from context.transcripts.matching import longest_prefix
from context.transcripts.parsed import ParsedTranscript, parsed_items
from context.transcripts.path_messages import count_of_items
from context.transcripts.prefix_hashes import output_prefixes
from domain.commands import Prefix
from domain.events import ContextPolicy, Fork, ItemAppended, Leaf
from domain.items import Item, from_stored
from domain.paths import PathSegment
from infrastructure.event_log.reader import FoundPrefix
from infrastructure.ids import is_id


class MatchedInput(Struct, frozen=True, kw_only=True):
    """The input, and how much of it a conversation has already.

    `repeated`: how many of the input's first items the conversation has. `target` None: a new conversation.
    """

    transcript: ParsedTranscript
    repeated: int = 0
    target: ReplyTarget | None = None

    def prefixes(
        self, new_ids: dict[int, str], response_id: str, output: Sequence[tuple[str, Item]]
    ) -> tuple[Prefix, ...]:
        """The prefixes to record when the reply's items join. `new_ids`: ids of new items, by index in the input."""
        transcript, target = self.transcript, self.target
        version = target.version if target is not None and target.start is None else None
        chain = transcript.chains[-1] if transcript.chains else transcript.first
        # A prefix that ends with an input item is recorded only if it contains an answer of this store.
        of_input = [
            Prefix(
                item_id=new_ids[index],
                hash=transcript.chains[index].hash,
                answered=True,
                response_id=response_id,
                read_version=version,
            )
            for index in (range(self.repeated, len(transcript.ends)) if target is not None else ())
            if index in new_ids and transcript.is_hashed(index)
        ]
        return (*of_input, *output_prefixes(chain, response_id, output, version))


async def match_input(context: CommandContext, body: CreateResponse, given: Sequence[GivenItem]) -> MatchedInput | None:
    """Finds the conversation that the input continues.

    None if the request names a conversation or an earlier response, is not stored, or has a reference that will be
    refused.
    """
    if not body.stored or body.conversation is not None or body.previous_response_id is not None:
        return None
    items = await _items(context, given)
    if items is None:
        return None
    principal = context.principal
    transcript = parsed_items(
        items, tenant=principal.tenant, subject=principal.subject, user=body.safety_identifier or body.user
    )
    found = await longest_prefix(context.dependencies.reader, transcript) if context.if_match is None else None
    if found is None:
        return MatchedInput(transcript=transcript)
    repeated, prefix = found
    leaf = await leaf_after(
        context.dependencies.reader, prefix.conversation_id, prefix.item_id, prefix.depth, prefix.version
    )
    if not await _is_path(context, transcript, repeated, prefix, leaf):
        return MatchedInput(transcript=transcript)
    target = await _target(context, prefix, leaf)
    return (
        MatchedInput(transcript=transcript, repeated=repeated, target=target)
        if target
        else MatchedInput(transcript=transcript)
    )


async def _items(context: CommandContext, given: Sequence[GivenItem]) -> list[Item] | None:
    """The items, with the referenced items in place of references. None if a reference will be refused."""
    ids = {entry.item_id for entry in given if isinstance(entry, ItemReference) and is_id(entry.item_id)}
    found = await find_items(context, ids)
    items: list[Item] = []
    for entry in given:
        if not isinstance(entry, ItemReference):
            items.append(from_stored(entry.item))
        elif (recorded := found.readable.get(entry.item_id)) is not None and isinstance(recorded.event, ItemAppended):
            items.append(from_stored(recorded.event.item))
        else:
            return None
    return items


async def _is_path(
    context: CommandContext, transcript: ParsedTranscript, repeated: int, prefix: FoundPrefix, leaf: Leaf
) -> bool:
    """Whether the path up to the prefix has only the first `repeated` items of the transcript.

    The path has more items if an earlier request left out the beginning of its history.
    """
    if prefix.depth == repeated:
        return True
    sent = sum(map(transcript.is_hashed, range(repeated)))
    end = PathSegment(prefix.conversation_id, prefix.version, leaf.path)
    return sent == await count_of_items(context.dependencies.reader, end, sent + 1)


async def _target(context: CommandContext, prefix: FoundPrefix, leaf: Leaf) -> ReplyTarget | None:
    """None if the caller can no longer read the conversation, or if the model would not be shown exactly the path."""
    reader, conversation_id = context.dependencies.reader, prefix.conversation_id
    head = await reader.readable_head(conversation_id)
    if head is None:
        return None
    settings = await settings_at(reader, conversation_id, head.version, leaf.path)
    is_usual = _shown_by(settings.policy) == _shown_by(context.policy())
    if settings.instructions is not None or not is_usual or settings.compaction is not None:
        return None
    origin = Fork(
        conversation_id=conversation_id,
        item_id=prefix.item_id,
        version=head.version,
        depth=prefix.depth,
        branches=leaf.path if leaf.path[-1].branch else (),
    )
    started = await start_of(reader, conversation_id)
    fork = await fork_at(context, origin, started.family)
    [is_followed] = await reader.are_followed([prefix])
    target = ReplyTarget(source=conversation_id, at=head.stream_version)
    on_new_branch = replace(target, leaf=leaf, alone=True, fallback=replace(target, start=fork))
    return on_new_branch if is_followed else replace(target, expected_head=prefix.item_id, fallback=on_new_branch)


def _shown_by(policy: ContextPolicy) -> ContextPolicy:
    """The policy without the fields that do not change what a model is shown."""
    return replace(policy, stopped="drop", on_disconnect="stop")
