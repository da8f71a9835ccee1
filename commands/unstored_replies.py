"""The replies with `store: false` that sockets remember, in this process's memory.

The next reply on a socket may continue from the socket's last unstored reply. If all remembered replies exceed
`max_bytes` together, the least recently used replies are forgotten.
"""

from collections import OrderedDict
from collections.abc import Hashable

from msgspec import Struct

from domain.commands import NewItem


class UnstoredReply(Struct, frozen=True, kw_only=True):
    """A reply that is not in the log.

    `after`: the last stored response before this reply. `items`: the input and the output of all unstored
    replies since `after`.
    """

    response_id: str
    after: str | None
    items: tuple[NewItem, ...]

    @property
    def size(self) -> int:
        """The size of the items, in bytes of JSON text."""
        return sum(len(new.item) for new in self.items)


class UnstoredReplies:
    def __init__(self, max_bytes: int, max_bytes_each: int) -> None:
        self._max_bytes = max_bytes
        self._max_bytes_each = max_bytes_each
        self._replies: OrderedDict[Hashable, UnstoredReply] = OrderedDict()
        self._bytes = 0

    def keep(self, socket: Hashable, reply: UnstoredReply) -> None:
        """Remembers the reply in place of the socket's earlier reply.

        A reply larger than `max_bytes_each` is not kept, because the next request with its items would be refused.
        """
        self.forget(socket)
        if reply.size > self._max_bytes_each:
            return
        self._replies[socket] = reply
        self._bytes += reply.size
        while self._bytes > self._max_bytes:
            self.forget(next(iter(self._replies)))

    def get(self, socket: Hashable) -> UnstoredReply | None:
        if socket in self._replies:
            self._replies.move_to_end(socket)
        return self._replies.get(socket)

    def forget(self, socket: Hashable) -> None:
        if (reply := self._replies.pop(socket, None)) is not None:
            self._bytes -= reply.size
