"""A request that is sent to the provider once more, with another context, because the provider refused the first one."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from msgspec import Struct

from domain.errors import ModelFailed
from domain.events import Shown


class Repeat(Struct, frozen=True, kw_only=True):
    """`body`: the request to the provider. `shown`: what is recorded of it. `reason`: as in ReplyShown.

    `learn` is called when the answer to this request has begun. Then it is certain that `reason` was the cause of the
    refusal. None: there is nothing to learn.
    """

    body: Mapping[str, Any]
    shown: Shown
    reason: str
    learn: Callable[[], Awaitable[None]] | None = None


RepeatOf = Callable[[ModelFailed, Shown], Awaitable[Repeat | None]]
"""Makes the request that is sent instead of one that the provider refused.

`Shown`: what is recorded of the refused request.

None: no other request is sent, and the refusal is the answer.
"""
