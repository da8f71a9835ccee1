"""The setting `RATE_LIMITS`: how much a tenant, a subject and an API key may do.

    {"tenant": {"requests": 6000, "replies": 20}, "subject": {"requests": 600}, "overrides": {"acme": {"requests": 60000}}}

A limit that is absent or null limits nothing. 0 allows nothing.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

Holder = Literal["tenant", "subject", "key"]
"""Subjects of different tenants are counted apart."""

HOLDERS: Final[tuple[Holder, ...]] = ("tenant", "subject", "key")

MAX_LIMIT: Final = 1_000_000_000_000
_TENANT = re.compile(r"[A-Za-z0-9._-]{1,64}")

Limit = Annotated[int, Field(strict=True, ge=0, le=MAX_LIMIT)]


class Limits(BaseModel):
    """The limits of one holder.

    requests, tokens                 in any minute
    requests_a_second                in a second; each process counts by itself
    replies, background, followers   at once
    tokens_a_month                   in a calendar month, UTC
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests: Limit | None = None
    requests_a_second: Limit | None = None
    tokens: Limit | None = None
    replies: Limit | None = None
    background: Limit | None = None
    followers: Limit | None = None
    tokens_a_month: Limit | None = None

    def with_changes(self, changes: "Limits") -> "Limits":
        """A null in `changes` removes the limit."""
        return self.model_copy(update={name: getattr(changes, name) for name in changes.model_fields_set})


class HolderLimits(BaseModel):
    """The limits of a tenant as a whole, of each of its subjects, and of each of its API keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tenant: Limits = Limits()
    subject: Limits = Limits()
    key: Limits = Limits()


def _of_the_tenant(value: Any) -> Any:
    """An override may leave `tenant` out."""
    if isinstance(value, dict) and value and all(name in Limits.model_fields for name in value):
        return {"tenant": value}
    return value


class RateLimits(HolderLimits):
    """The whole setting. `overrides` maps a tenant to the limits that differ for it."""

    overrides: Mapping[str, Annotated[HolderLimits, BeforeValidator(_of_the_tenant)]] = {}

    @field_validator("overrides")
    @classmethod
    def _check_tenants(cls, overrides: Mapping[str, HolderLimits]) -> Mapping[str, HolderLimits]:
        if not all(_TENANT.fullmatch(tenant) for tenant in overrides):
            raise ValueError("a tenant's name has 1 to 64 letters, digits, `.`, `_` or `-`")
        return overrides

    def of(self, tenant: str) -> Mapping[Holder, Limits]:
        changes = self.overrides.get(tenant, HolderLimits())
        return {holder: getattr(self, holder).with_changes(getattr(changes, holder)) for holder in HOLDERS}


RECOMMENDED: Final = RateLimits(
    tenant=Limits(requests=3_000, requests_a_second=50, tokens=2_000_000, replies=40, background=20, followers=500),
    subject=Limits(requests=600, requests_a_second=25, tokens=400_000, replies=10, background=5, followers=50),
    key=Limits(requests=3_000, requests_a_second=50, tokens=2_000_000, replies=40, background=20, followers=500),
)
"""`docs/operations.md` gives the reasons."""
