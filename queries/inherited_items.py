"""What a conversation inherits, for the queries that read the view `items`. The view has an inherited item once, in its own conversation.

In a fork, the inherited items count as the beginning of branch 0. Only the log knows whether they are deleted: in their conversation, or by a fork
for itself. So an answer of a fork needs one look-up, and is sent with `NO_STORE`.
"""

from collections.abc import Sequence

from context.conversation_settings import retracted_at
from domain.events import PathBranch
from domain.paths import FIRST_BRANCH, Path, PathSegment
from projections.views.catalog import MongoView
from projections.views.writes import Document
from queries.consistency import ConversationRead
from queries.log_access import PostgresUnavailable
from queries.query_context import MAX_POSITION, QueryContext


async def read_with_origins(context: QueryContext, conversation_id: str, *views: MongoView) -> ConversationRead:
    """As `QueryContext.read_conversation`. If the conversation is a fork, the views also show what is committed in the conversations that it inherits from.

    Raises PostgresUnavailable if the conversation is a fork and the read is unverified: it is not known what the fork inherits.
    """
    read = await context.read_conversation(conversation_id, *views)
    if read.is_fork and not read.verified:
        raise PostgresUnavailable
    if read.verified:
        read.forks = await context.forks(conversation_id)
    if read.forks:
        await context.dependencies.consistency.wait_for_origins(read)
    return read


def path_along(read: ConversationRead, version: int, branches: tuple[PathBranch, ...] = FIRST_BRANCH) -> Path:
    """The path through these branches of the conversation, with what it inherits."""
    path = Path((PathSegment(read.conversation_id, version, branches),))
    for fork in read.forks:
        path = path.after_origin(fork)
    return path


def is_inherited(read: ConversationRead, document: Document) -> bool:
    """Whether the conversation inherits the item of a document of the view `items`, deleted or not."""
    item = [document[name] for name in ("conversation_id", "branch", "depth", "version")]
    return document["conversation_id"] != read.conversation_id and path_along(read, read.version).contains(*item)


async def retracted_in_forks(read: ConversationRead, path: Path, item_ids: Sequence[str]) -> set[str]:
    """Which of these inherited items a fork on the path had retracted for itself at the path's version.

    An origin that is itself a fork is read as it was when the next fork was made from it. What it has restored since then does not count as retracted.
    """
    retracted: set[str] = set()
    for fork in path.segments[1:]:
        restored_before = 0 if fork.conversation_id == read.conversation_id else MAX_POSITION
        retracted |= await retracted_at(read.log, fork, item_ids, restored_before)
    return retracted
