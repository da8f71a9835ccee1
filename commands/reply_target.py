"""Where a reply belongs: in the conversation it names, behind the response it goes on from, or in an unlisted one of its own.

A response's own conversation is unlisted. Who goes on from the last response in it is told below it; who goes on from an earlier
one, or from one in a conversation that people see, begins a fork there, and shares what lies before: items, instructions and
policy, but neither pins nor summaries.
"""

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from commands.command_context import CommandContext
from commands.response_body import CreateResponse
from context.conversation_settings import settings_at
from context.history_backwards import RecentItems
from domain.commands import NewItem, StartConversation
from domain.errors import ConversationNotFound, ResponseNotFound
from domain.events import ConversationStarted, Fork, ItemAppended, ReplyCompleted
from domain.items import Item, as_stored, from_stored, prefix, type_of
from infrastructure.event_log.reader import EventReader
from infrastructure.http.errors import ApiError
from infrastructure.http.paths import checked
from infrastructure.ids import CONVERSATION, RESPONSE, is_id, mint, mint_in_partition_of
from replies.output import CUT_OFF
from replies.record import Record, find

PAGE = 50


class ReplyTarget(Struct, frozen=True, kw_only=True):
    """Where a reply belongs.

    `shown_of` at `version` is the conversation whose context the model is shown; None: there is none yet. `start` begins the
    reply's own conversation; without it the reply is in `shown_of`, and where `below` is given only as long as that is its head.
    `taken_up`: items of a reply that did not complete, which join with the input; `snapshot`: that of `shown_of`, of whatever
    version, where it was looked for already.
    """

    shown_of: str | None
    version: int
    start: StartConversation | None = None
    in_place: bool = False
    expected_head: str | None = None
    taken_up: tuple[NewItem, ...] = ()
    snapshot: RecentItems | UnsetType | None = UNSET

    @property
    def conversation_id(self) -> str:
        ident = self.start.conversation_id if self.start is not None and not self.in_place else self.shown_of
        assert ident is not None
        return ident

    @property
    def forks(self) -> bool:
        """Whether it begins below what another conversation holds."""
        return not self.in_place and self.start is not None and self.start.forked_from is not None

    def beside(self) -> "ReplyTarget":
        """The fork that stands in where the place in `shown_of` was taken meanwhile."""
        return replace(self, in_place=False)


async def place_of(context: CommandContext, body: CreateResponse) -> ReplyTarget:
    """Raises ConversationNotFound; ApiError where the response to go on from is unknown (400) or still runs (409)."""
    if body.previous_response_id is not None:
        return await _behind(context, body.previous_response_id)
    if body.conversation_id is None:
        return ReplyTarget(shown_of=None, version=0, start=_start(context))
    conversation_id = checked(body.conversation_id, CONVERSATION, "conversation")
    head = await context.dependencies.reader.head(conversation_id)
    if head is None or head.deleted or head.tenant != context.principal.tenant:
        raise ConversationNotFound(conversation_id)
    return ReplyTarget(shown_of=conversation_id, version=head.version)


async def _behind(context: CommandContext, response_id: str) -> ReplyTarget:
    reader = context.dependencies.reader
    try:
        if not is_id(response_id, RESPONSE):
            raise ResponseNotFound(response_id)
        record = await find(reader, context.principal.tenant, response_id)
    except ResponseNotFound:
        raise ApiError(
            400,
            f"Previous response with id {response_id[:64]!r} not found.",
            code="previous_response_not_found",
            param="previous_response_id",
        ) from None
    if record.end is None:
        raise ApiError(
            409,
            f"Response {response_id} is still in progress: try again when it has ended.",
            code="response_in_progress",
            param="previous_response_id",
            retry=True,
        )
    whole = isinstance(record.end, ReplyCompleted)
    version = record.last.version if whole else record.at.version
    last = await _head_at(reader, record.conversation_id, version)
    first = (await reader.conversation(record.conversation_id, limit=1))[0].event
    assert isinstance(first, ConversationStarted)
    taken_up = () if whole else _taken_up(record)
    if last is None and first.forked_from is None:
        if first.listed or not await _is_empty(reader, record.conversation_id):
            return ReplyTarget(shown_of=None, version=0, start=_start(context), taken_up=taken_up)
        return ReplyTarget(
            shown_of=record.conversation_id,
            version=version,
            start=_start(context),
            in_place=True,
            expected_head=None,
            taken_up=taken_up,
        )
    if last is not None:
        fork = Fork(conversation_id=record.conversation_id, item_id=last.item_id, version=version, depth=last.depth)
    else:
        assert first.forked_from is not None
        fork = first.forked_from
    stands = await settings_at(reader, record.conversation_id, version)
    start = replace(
        _start(context),
        conversation_id=mint_in_partition_of(first.family),
        forked_from=fork,
        family=first.family,
        instructions=stands.instructions,
        context_policy=stands.policy,
    )
    head = await reader.head(record.conversation_id)
    assert head is not None
    newest = last if head.version == version else await _head_at(reader, record.conversation_id, head.version)
    is_last = fork.item_id == (newest.item_id if newest is not None else fork.item_id)
    in_place = is_last and not first.listed
    return ReplyTarget(
        shown_of=record.conversation_id,
        version=head.version if in_place else version,
        start=start,
        in_place=in_place,
        expected_head=fork.item_id,
        taken_up=taken_up,
    )


def _start(context: CommandContext) -> StartConversation:
    """An unlisted conversation of the reply's own."""
    return StartConversation(
        conversation_id=mint(CONVERSATION),
        tenant=context.principal.tenant,
        owner=context.principal.subject,
        listed=False,
    )


async def _head_at(reader: EventReader, conversation_id: str, version: int) -> ItemAppended | None:
    """The last item of the path at this version; None when the conversation had none of its own."""
    until = version
    while until > 0:
        page = await reader.conversation_backwards(conversation_id, until=until, limit=PAGE)
        for recorded in page:
            if isinstance(recorded.event, ItemAppended):
                return recorded.event
        until = page[-1].version - 1 if page else 0
    return None


async def _is_empty(reader: EventReader, conversation_id: str) -> bool:
    head = await reader.head(conversation_id)
    return head is not None and await _head_at(reader, conversation_id, head.version) is None


def _taken_up(record: Record) -> tuple[NewItem, ...]:
    """What a reply that did not complete was asked, and what it had said, as items of their own; calls that were cut off are not in it."""
    said = [from_stored(kept.item) for kept in record.output]
    asked = [from_stored(given.item) for given in record.requested.input]
    return tuple(
        NewItem(item_id=mint(prefix(item)), item=as_stored(item)) for item in [*asked, *filter(_is_usable, said)]
    )


def _is_usable(item: Item) -> bool:
    if type_of(item) == "message":
        return any(part.get("text") for part in item.get("content") or ())
    return bool(item.get("status") != CUT_OFF)
