"""The setting `TENANT_DEFAULTS`: each tenant's default model, and the context policy of its new conversations.

{"acme": {"model": "gpt-5-mini", "context_policy": {"stopped": "keep", "on_disconnect": "finish"}}}
"""

from typing import Annotated, Literal

from msgspec.structs import replace
from pydantic import BaseModel, ConfigDict, Field

from domain.events import ContextPolicy

Tokens = Annotated[int, Field(ge=1, le=2**31)]


class PolicyFields(BaseModel):
    """The fields of a context policy that a client or an operator may give."""

    model_config = ConfigDict(strict=True, extra="forbid")

    strategy: Literal["newest_turns", "rolling_summary"] = "newest_turns"
    budget: Tokens | None = None
    reserve: Tokens | None = None
    window: Literal["stable", "newest"] = "stable"
    refill: Annotated[float, Field(ge=0.1, le=0.9)] = 0.6
    stopped: Literal["drop", "keep"] = "drop"
    on_disconnect: Literal["stop", "finish"] = "stop"

    def applied_to(self, defaults: ContextPolicy) -> ContextPolicy:
        """Fields that were not given are taken from `defaults`."""
        return replace(defaults, **self.model_dump(exclude_unset=True))


class TenantDefaults(BaseModel):
    """The defaults of one tenant."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Annotated[str, Field(min_length=1)] | None = None
    context_policy: PolicyFields = PolicyFields()
