"""Who may send which command."""

import pytest

from domain.access import Actor, Role, check_allowed, role_of
from domain.commands import (
    AppendItems,
    Command,
    DeleteConversation,
    FailReply,
    ShareConversation,
    UnshareConversation,
)
from domain.conversation import Conversation
from domain.errors import ConversationNotFound, NotAllowed
from domain.events import ConversationDeleted, ConversationShared, ConversationUnshared, Share
from tests.domain.specification import CONVERSATION, given, started

BOB_READS = Share(subject="bob", role="reader")
BOB_WRITES = Share(subject="bob", role="writer")
ALL_READ = Share(role="reader")

APPEND = AppendItems(items=(), author="bob")
DELETE = DeleteConversation()
SHARE = ShareConversation(share=ALL_READ)
UNSHARE = UnshareConversation(subject=None)
END_OF_REPLY = FailReply(response_id="resp_1", code="c", message="m")


@pytest.mark.parametrize(
    ("owner", "shares", "actor", "role"),
    [
        ("ann", (), Actor("ann"), "owner"),
        ("ann", (), Actor("bob"), None),
        ("ann", (), Actor("bob", is_admin=True), "owner"),
        ("ann", (BOB_READS,), Actor("bob"), "reader"),
        ("ann", (BOB_READS,), Actor("eve"), None),
        ("ann", (BOB_WRITES, ALL_READ), Actor("bob"), "writer"),
        ("ann", (BOB_WRITES, ALL_READ), Actor("eve"), "reader"),
        (None, (), Actor("ann"), None),
    ],
)
def test_each_actor_has_a_role_or_none(
    owner: str | None, shares: tuple[Share, ...], actor: Actor, role: Role | None
) -> None:
    assert role_of(owner, shares, actor) == role


@pytest.mark.parametrize(
    ("actor", "command", "error"),
    [
        (Actor("eve"), APPEND, ConversationNotFound),
        (Actor("eve"), DELETE, ConversationNotFound),
        (Actor("eve"), END_OF_REPLY, None),
        (Actor("rita"), APPEND, NotAllowed),
        (Actor("bob"), APPEND, None),
        (Actor("bob"), DELETE, NotAllowed),
        (Actor("bob"), SHARE, NotAllowed),
        (Actor("bob"), UNSHARE, NotAllowed),
        (Actor("ann"), DELETE, None),
        (Actor("eve", is_admin=True), SHARE, None),
    ],
)
def test_a_role_allows_or_refuses_a_command(actor: Actor, command: Command, error: type[Exception] | None) -> None:
    shares = (BOB_WRITES, Share(subject="rita", role="reader"))
    state = Conversation(id=CONVERSATION, tenant="acme", owner="ann", version=2, family=CONVERSATION, shares=shares)
    if error is None:
        check_allowed(state, command, actor)
        return
    with pytest.raises(error):
        check_allowed(state, command, actor)


def test_a_new_share_of_a_subject_replaces_the_old_one() -> None:
    shared = ConversationShared(shares=(BOB_READS, ALL_READ))
    given(started(), shared).when(ShareConversation(share=BOB_WRITES)).then(
        ConversationShared(shares=(ALL_READ, BOB_WRITES))
    )
    given(started(), shared).when(ShareConversation(share=BOB_READS)).then()


def test_when_a_share_is_withdrawn_the_other_shares_remain() -> None:
    shared = ConversationShared(shares=(BOB_READS, ALL_READ))
    given(started(), shared).when(UnshareConversation(subject="bob")).then(ConversationUnshared(shares=(ALL_READ,)))
    given(started(), shared).when(UnshareConversation(subject=None)).then(ConversationUnshared(shares=(BOB_READS,)))
    withdrawn = given(started(), shared, ConversationUnshared(shares=())).state
    assert withdrawn is not None
    assert withdrawn.shares == ()


@pytest.mark.parametrize("actor", ["ann", "bob", "eve"])
def test_nobody_learns_that_a_deleted_conversation_existed(actor: str) -> None:
    state = given(started(), ConversationShared(shares=(BOB_READS,)), ConversationDeleted()).state
    assert state is not None
    with pytest.raises(ConversationNotFound):
        check_allowed(state, APPEND, Actor(actor))
