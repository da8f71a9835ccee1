"""What forks inherit. A conversation's first event never changes, so it is remembered."""

import sys
from collections.abc import Collection, Sequence

from msgspec import Struct

from domain.events import ConversationStarted, Fork
from domain.paths import Path, PathSegment
from infrastructure.event_log.incarnation import LogMoved
from queries.principal_log import PrincipalLog

MAX_REMEMBERED = 50_000
"""This many conversations take 15 to 30 MB of memory. A fork takes more than another conversation."""


class Start(Struct, frozen=True, gc=False):
    owner: str
    fork: Fork | None


class Inherited(Struct, frozen=True):
    """What some forks inherit.

    `paths`: each fork's path along its branch 0, with what it inherits. `owners`: the owner of each origin.
    """

    paths: Sequence[Path] = ()
    owners: dict[str, str] = {}


class ForkOrigins:
    def __init__(self) -> None:
        self._starts: dict[tuple[str, str], Start] = {}

    async def forks(self, log: PrincipalLog, conversation_id: str) -> tuple[Fork, ...]:
        """Where the conversation was forked, where its origin was forked, and so on.

        Raises LogMoved and PostgresUnavailable.
        """
        forks: list[Fork] = []
        while (start := (await self._read(log, [conversation_id])).get(conversation_id)) is not None:
            if start.fork is None:
                return tuple(forks)
            forks.append(start.fork)
            conversation_id = start.fork.conversation_id
        raise LogMoved(f"the log no longer has the start of {conversation_id}")

    async def of(self, log: PrincipalLog, fork_ids: Sequence[str]) -> Inherited:
        """What these forks inherit. Takes at most one look-up for each generation.

        Conversations that are no forks have no path.
        """
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
