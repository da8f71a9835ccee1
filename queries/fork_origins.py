"""What forks inherit. The first event of a conversation never changes, so a process remembers what it says."""

import sys
from collections.abc import Collection, Sequence

from msgspec import Struct

from domain.events import ConversationStarted, Fork
from domain.paths import Path, PathSegment
from infrastructure.event_log.incarnation import LogMoved
from queries.principal_log import PrincipalLog

MAX_REMEMBERED = 50_000
"""For how many conversations a process remembers the owner and the origin: about 15 MB."""


class Start(Struct, frozen=True, gc=False):
    """Who owns a conversation, and what it was forked from (`fork`; None if it is no fork)."""

    owner: str
    fork: Fork | None


class Inherited(Struct, frozen=True):
    """`paths`: for each fork, the path along its branch 0, which begins with what the fork inherits. `owners`: the owner of each conversation that a fork inherits from."""

    paths: Sequence[Path] = ()
    owners: dict[str, str] = {}


class ForkOrigins:
    """Finds what forks inherit."""

    def __init__(self) -> None:
        self._starts: dict[tuple[str, str], Start] = {}

    async def forks(self, log: PrincipalLog, conversation_id: str) -> tuple[Fork, ...]:
        """Where the conversation was forked, where its origin was forked, and so on. Raises LogMoved if the log lacks the first event of one of these conversations."""
        forks: list[Fork] = []
        while (start := (await self._read(log, [conversation_id])).get(conversation_id)) is not None:
            if start.fork is None:
                return tuple(forks)
            forks.append(start.fork)
            conversation_id = start.fork.conversation_id
        raise LogMoved(f"the log no longer has the start of {conversation_id}")

    async def of(self, log: PrincipalLog, fork_ids: Sequence[str]) -> Inherited:
        """What these forks inherit. Conversations that are no forks may be among them; they have no path. Takes a look-up for each generation of forks."""
        starts: dict[str, Start] = {}
        missing: Collection[str] = fork_ids
        while missing:
            found = await self._read(log, missing)
            starts |= found
            missing = {start.fork.conversation_id for start in found.values() if start.fork is not None} - starts.keys()
        paths = [_path_of(fork_id, starts) for fork_id in fork_ids]
        inherited = [path for path in paths if len(path.segments) > 1]
        origins = {segment.conversation_id for path in inherited for segment in path.segments[:-1]}
        return Inherited(inherited, {origin: starts[origin].owner for origin in origins if origin in starts})

    async def _read(self, log: PrincipalLog, conversation_ids: Collection[str]) -> dict[str, Start]:
        """The start of each of these conversations that exists."""
        found = {}
        unknown = []
        for conversation_id in conversation_ids:
            start = self._starts.get((log.tenant, conversation_id))
            if start is None:
                unknown.append(conversation_id)
            else:
                found[conversation_id] = start
        for recorded in await log.starts(unknown) if unknown else ():
            event = recorded.event
            assert isinstance(event, ConversationStarted)
            start = Start(event.owner, event.forked_from)
            found[event.conversation_id] = self._starts[log.tenant, event.conversation_id] = start
        while len(self._starts) > MAX_REMEMBERED:
            del self._starts[next(iter(self._starts))]
        return found


def _path_of(conversation_id: str, starts: dict[str, Start]) -> Path:
    path = Path((PathSegment(conversation_id, sys.maxsize),))
    while (start := starts.get(path.segments[0].conversation_id)) is not None and start.fork is not None:
        path = path.after_origin(start.fork)
    return path
