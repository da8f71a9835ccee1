"""The replies with `store: false` that sockets remember. Each socket remembers its last such reply, unless that failed. The next reply on the socket may continue from it.

These replies are only in this process's memory. Together they have at most `max_bytes`. To keep this limit, the least recently used replies are
forgotten.
"""

from collections import OrderedDict
from collections.abc import Hashable

from msgspec import Struct

from domain.commands import NewItem


class UnstoredReply(Struct, frozen=True, kw_only=True):
    """A reply that is not in the log.

    `after`: the stored response that its chain continues from; None if there is none. `items`: the input and the
    output of this reply, and of the unstored replies between `after` and this one.
    """

    response_id: str
    after: str | None
    items: tuple[NewItem, ...]

    @property
    def size(self) -> int:
        """The size of the items, in bytes of JSON text."""
        return sum(len(new.item) for new in self.items)


class UnstoredReplies:
    """The last unstored reply of each socket of this process."""

    def __init__(self, max_bytes: int, max_bytes_each: int) -> None:
        self._max_bytes = max_bytes
        self._max_bytes_each = max_bytes_each
        self._replies: OrderedDict[Hashable, UnstoredReply] = OrderedDict()
        self._bytes = 0

    def keep(self, socket: Hashable, reply: UnstoredReply) -> None:
        """Remembers the reply in place of the socket's last one.

        A reply larger than `max_bytes_each` is not kept: its items alone would exceed the limit for the input of the next request.
        """
        self.forget(socket)
        if reply.size > self._max_bytes_each:
            return
        self._replies[socket] = reply
        self._bytes += reply.size
        while self._bytes > self._max_bytes:
            self.forget(next(iter(self._replies)))

    def get(self, socket: Hashable) -> UnstoredReply | None:
        """The reply that the socket remembers. None if its last reply was stored, failed or was forgotten, or if a request that continued from that reply failed."""
        if socket in self._replies:
            self._replies.move_to_end(socket)
        return self._replies.get(socket)

    def forget(self, socket: Hashable) -> None:
        if (reply := self._replies.pop(socket, None)) is not None:
            self._bytes -= reply.size
