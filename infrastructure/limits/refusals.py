"""The error for a request that is over a limit."""

from math import ceil
from typing import Final, Literal

from infrastructure.rate_limits import Holder

LimitName = Literal["requests", "requests_a_second", "tokens", "replies", "background", "followers", "tokens_a_month"]

_LIMIT_TEXTS: Final[dict[LimitName, str]] = {
    "requests": "requests per min (RPM)",
    "requests_a_second": "requests per second (each 64 KB of a body or answer counts as one more request)",
    "tokens": "tokens per min (TPM)",
    "replies": "replies at once",
    "background": "background replies at once",
    "followers": "streams and WebSockets at once",
}

_HOLDER_TEXTS: Final[dict[Holder, str]] = {"tenant": "this tenant", "subject": "this user", "key": "this API key"}


class OverLimit(Exception):
    """`retry_after`: seconds after which a repeat may succeed."""

    def __init__(self, name: LimitName, holder: Holder, limit: int, retry_after: float) -> None:
        self.name = name
        self.holder = holder
        self.limit = limit
        self.retry_after = retry_after
        if name == "tokens_a_month":
            super().__init__(
                f"You exceeded the quota of {_HOLDER_TEXTS[holder]}: {limit} tokens in a calendar month (UTC)."
                " A new quota begins with the next month."
            )
            return
        super().__init__(
            f"Rate limit reached for {_HOLDER_TEXTS[holder]} on {_LIMIT_TEXTS[name]}: Limit {limit}. Please try again in {ceil(retry_after)}s."
        )

    @property
    def is_quota(self) -> bool:
        """A short wait does not help."""
        return self.name == "tokens_a_month"
