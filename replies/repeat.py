"""A request that is sent in place of a refused one, with another context."""

from collections.abc import Awaitable, Callable

from msgspec import Struct

from context.inlined_contents import RequestBody
from domain.errors import ModelFailed
from domain.events import Shown


class Repeat(Struct, frozen=True, kw_only=True):
    """The request to send.

    `reason`: as in ReplyShown. `learn` is called when the answer has begun, because this shows that `reason` was the
    cause of the refusal.
    """

    body: RequestBody
    shown: Shown
    reason: str
    learn: Callable[[], Awaitable[None]] | None = None


RepeatOf = Callable[[ModelFailed, Shown], Awaitable[Repeat | None]]
"""Makes the repeat of a refused request. `Shown` is what that request showed. None: the refusal is the answer."""
