"""The headers that tell the limits: `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-11), and
OpenAI's `x-ratelimit-*`.

The draft has no unit for tokens, so its headers name no limits of tokens. OpenAI's headers show the limit of which the
least is left.
"""

from collections.abc import Iterator, Sequence
from math import ceil
from typing import Final

from infrastructure.limits.limiter import Account, Counts
from infrastructure.limits.refusals import OverLimit
from infrastructure.limits.requests import RequestCount
from infrastructure.limits.tokens import TokenCount
from infrastructure.limits.window import WINDOW_SECONDS

Headers = list[tuple[bytes, bytes]]

_AT_ONCE: Final = 'qu="concurrent-requests"'
_FURTHER: Final = {
    "requests_a_second": "w=1",
    "replies": _AT_ONCE,
    "background": _AT_ONCE,
    "followers": _AT_ONCE,
}
"""`RateLimit` names one of these limits only when it has refused the request."""


def headers_of(account: Account, now: float, *, is_shared: bool, refusal: OverLimit | None = None) -> Headers:
    policies, limits = [], []
    seconds = WINDOW_SECONDS if refusal is None else min(WINDOW_SECONDS, ceil(refusal.retry_after))
    for holder, count in account.requests:
        policies.append(f'"{holder}-requests";q={count.limit};w={WINDOW_SECONDS}')
        limits.append(f'"{holder}-requests";r={count.left(now, is_shared=is_shared)};t={seconds}')
    if refusal is not None and refusal.name in _FURTHER:
        policies.append(f'"{refusal.holder}-{refusal.name}";q={refusal.limit};{_FURTHER[refusal.name]}')
        limits.append(f'"{refusal.holder}-{refusal.name}";r=0;t={seconds}')
    headers: Headers = []
    if policies:
        headers.append((b"ratelimit-policy", ", ".join(policies).encode()))
        headers.append((b"ratelimit", ", ".join(limits).encode()))
    if account.requests:
        headers += _openai("requests", account.requests, now, is_shared=is_shared)
    if account.tokens:
        headers += _openai("tokens", account.tokens, now, is_shared=is_shared)
    return headers


def _openai(
    name: str, counts: Counts[RequestCount] | Counts[TokenCount], now: float, *, is_shared: bool
) -> Iterator[tuple[bytes, bytes]]:
    by_left: Sequence[tuple[int, RequestCount | TokenCount]]
    by_left = [(count.left(now, is_shared=is_shared), count) for _, count in counts]
    left, count = min(by_left, key=lambda pair: pair[0])
    reset = "1m0s" if left else duration(count.free_in(now, is_shared=is_shared))
    yield f"x-ratelimit-limit-{name}".encode(), str(count.limit).encode()
    yield f"x-ratelimit-remaining-{name}".encode(), str(left).encode()
    yield f"x-ratelimit-reset-{name}".encode(), reset.encode()


def duration(seconds: float) -> str:
    """As OpenAI writes it: `12ms`, `1.5s`, `6m0s`, `1h0m0s`."""
    if seconds < 1:
        return f"{ceil(seconds * 1000)}ms"
    if seconds < 60:
        return f"{round(seconds, 3):g}s"
    minutes, rest = divmod(ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"
