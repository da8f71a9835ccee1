"""What a conversation inherits, for queries of the view `items`.

In a fork, the inherited items are the beginning of branch 0. Only the log knows whether these items are deleted. So a
fork's answer needs a look-up, and is sent with `NO_STORE`.
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
    """Does the same as `QueryContext.read_conversation`. For a fork, also waits for its origins.

    Raises PostgresUnavailable for an unverified read of a fork, because its origins are not known then.
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
    """The path along these branches, which begins with the inherited items."""
    path = Path((PathSegment(read.conversation_id, version, branches),))
    for fork in read.forks:
        path = path.after_origin(fork)
    return path


def is_inherited(read: ConversationRead, document: Document) -> bool:
    item = [document[name] for name in ("conversation_id", "branch", "depth", "version")]
    return document["conversation_id"] != read.conversation_id and path_along(read, read.version).contains(*item)


async def retracted_in_forks(read: ConversationRead, path: Path, item_ids: Sequence[str]) -> set[str]:
    """Which of these items were retracted in a fork of the path: this conversation, or an origin that is a fork.

    Each fork is looked at as of its version on the path. An item that an origin has restored since then does not count.
    """
    retracted: set[str] = set()
    for fork in path.segments[1:]:
        restored_before = 0 if fork.conversation_id == read.conversation_id else MAX_POSITION
        retracted |= await retracted_at(read.log, fork, item_ids, restored_before)
    return retracted
