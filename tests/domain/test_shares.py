"""Sharing a conversation."""

from domain.commands import ShareConversation, UnshareConversation
from domain.decide import MAX_SHARES
from domain.errors import ConversationNotFound, SharedWithOwner, ShareNotFound, TooManyShares
from domain.events import (
    ConversationDeleted,
    ConversationEnded,
    ConversationShared,
    ConversationUnshared,
    Share,
)
from tests.domain.specification import CONVERSATION, given, started

BOB_READS = Share(subject="bob", role="reader")
BOB_WRITES = Share(subject="bob", role="writer")
ALL_READ = Share(role="reader")
ALL_WRITE = Share(role="writer")
FULL = ConversationShared(shares=tuple(Share(subject=f"user {n}", role="reader") for n in range(MAX_SHARES)))


def test_the_event_of_a_share_has_all_shares() -> None:
    given(started()).when(ShareConversation(share=BOB_READS)).then(ConversationShared(shares=(BOB_READS,)))
    given(started(), ConversationShared(shares=(BOB_READS,))).when(ShareConversation(share=ALL_READ)).then(
        ConversationShared(shares=(BOB_READS, ALL_READ))
    )


def test_a_repeated_share_changes_nothing_and_a_new_role_replaces_the_old() -> None:
    for share, other_role in ((BOB_READS, BOB_WRITES), (ALL_READ, ALL_WRITE)):
        shared = ConversationShared(shares=(share,))
        given(started(), shared).when(ShareConversation(share=share)).then()
        given(started(), shared).when(ShareConversation(share=other_role)).then(
            ConversationShared(shares=(other_role,))
        )


def test_a_subject_can_get_a_share_beside_a_share_with_everyone() -> None:
    shared = ConversationShared(shares=(ALL_READ,))
    given(started(), shared).when(ShareConversation(share=BOB_READS)).then(
        ConversationShared(shares=(ALL_READ, BOB_READS))
    )


def test_a_share_with_the_owner_is_refused() -> None:
    given(started()).when(ShareConversation(share=Share(subject="ann", role="writer"))).refused(SharedWithOwner)


def test_a_share_beyond_a_hundred_is_refused_but_roles_can_change() -> None:
    given(started(), FULL).when(ShareConversation(share=BOB_READS)).refused(TooManyShares)
    given(started(), FULL).when(ShareConversation(share=ALL_READ)).refused(TooManyShares)
    first = Share(subject="user 0", role="writer")
    given(started(), FULL).when(ShareConversation(share=first)).then(
        ConversationShared(shares=(*FULL.shares[1:], first))
    )
    withdrawn = ConversationUnshared(shares=FULL.shares[1:])
    given(started(), FULL, withdrawn).when(ShareConversation(share=BOB_READS)).then(
        ConversationShared(shares=(*FULL.shares[1:], BOB_READS))
    )


def test_withdrawing_an_unknown_share_is_refused() -> None:
    shared = ConversationShared(shares=(BOB_READS,))
    given(started(), shared).when(UnshareConversation(subject="eve")).refused(ShareNotFound)
    given(started(), shared).when(UnshareConversation(subject=None)).refused(ShareNotFound)
    gone = ConversationUnshared(shares=())
    given(started(), shared, gone).when(UnshareConversation(subject="bob")).refused(ShareNotFound)


def test_an_ended_conversation_can_be_shared_and_a_deleted_one_cannot() -> None:
    given(started(), ConversationEnded()).when(ShareConversation(share=BOB_READS)).then(
        ConversationShared(shares=(BOB_READS,))
    )
    given(started(), ConversationDeleted()).when(ShareConversation(share=BOB_READS)).refused(ConversationNotFound)
    given(started(), ConversationDeleted()).when(UnshareConversation(subject="bob")).refused(ConversationNotFound)


def test_shares_survive_the_end_of_the_conversation() -> None:
    state = given(started(), ConversationShared(shares=(BOB_READS,)), ConversationEnded()).state
    assert state is not None
    assert (state.id, state.shares) == (CONVERSATION, (BOB_READS,))
