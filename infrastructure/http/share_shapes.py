"""The JSON of a share: `{object:"share", with:{subject}|{tenant:true}, role}`."""

from collections.abc import Iterable
from typing import Literal

from msgspec import UNSET, Struct, UnsetType, field

from domain.events import Share


class SharedWith(Struct, frozen=True):
    """Who may use a conversation: one subject of its tenant, or with `tenant: true` everybody in the tenant."""

    subject: str | UnsetType = UNSET
    tenant: bool | UnsetType = UNSET


class ConversationShare(Struct, frozen=True, kw_only=True, tag_field="object", tag="share"):
    """Somebody besides the owner who may use a conversation. A reader can only read. A writer may do everything except delete the conversation, share it, and withdraw shares."""

    shared_with: SharedWith = field(name="with")
    role: Literal["reader", "writer"]


class ConversationShareList(Struct, frozen=True, kw_only=True, tag_field="object", tag="list"):
    """All shares, in the order in which they were made or changed. There are no pages: `has_more` is false."""

    data: list[ConversationShare]
    has_more: bool = False


class ShareWithdrawn(Struct, frozen=True, kw_only=True, tag_field="object", tag="share.deleted"):
    """The receipt of a withdrawal."""

    shared_with: SharedWith = field(name="with")
    deleted: bool


def shared_with(subject: str | None) -> SharedWith:
    """`subject` None: everyone in the tenant."""
    return SharedWith(tenant=True) if subject is None else SharedWith(subject=subject)


def share_shape(share: Share) -> ConversationShare:
    return ConversationShare(shared_with=shared_with(share.subject), role=share.role)


def share_list(shares: Iterable[Share]) -> ConversationShareList:
    return ConversationShareList(data=[share_shape(share) for share in shares])
