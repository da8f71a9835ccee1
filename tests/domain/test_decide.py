"""The rules of conversations. A test gives events and a command, and expects new events or a refusal."""

import msgspec
from hypothesis import given as for_any
from hypothesis import strategies as st

from domain.commands import (
    AppendItems,
    ArchiveConversation,
    CancelReply,
    Command,
    CompactContext,
    CompleteReply,
    DeleteConversation,
    DeleteReply,
    DescribeConversation,
    DescribeReply,
    EndConversation,
    FailReply,
    InterruptReply,
    NewItem,
    PinItem,
    RedoCompaction,
    ReopenConversation,
    RequestReply,
    RestoreItem,
    RetractItem,
    ShowReply,
    StartConversation,
    UndoCompaction,
    UnpinItem,
    WriteTitle,
)
from domain.conversation import Conversation, KnownItem, evolve, evolve_item
from domain.decide import MAX_PINS, decide
from domain.errors import (
    ConversationExists,
    ConversationIsEnded,
    ConversationLocked,
    ConversationNotFound,
    HeadHasMoved,
    HistoryLost,
    InputHasJoined,
    ItemNotFound,
    ItemsDeleted,
    NothingToUndo,
    Refused,
    ReplyIsOver,
    ResponseNotFound,
    SummaryHasChanged,
    TitleExists,
    TooManyPins,
)
from domain.events import (
    REPLY_ENDS,
    CompactionRedone,
    CompactionUndone,
    ContextCompacted,
    ConversationDeleted,
    ConversationDescribed,
    ConversationEnded,
    ConversationReopened,
    Event,
    Fork,
    HeadMoved,
    InputItem,
    ItemAppended,
    ItemPinned,
    ItemRestored,
    ItemRetracted,
    ItemUnpinned,
    Leaf,
    PathBranch,
    ReplyCancelled,
    ReplyCompleted,
    ReplyDeleted,
    ReplyDescribed,
    ReplyFailed,
    ReplyInterrupted,
    ReplyRequested,
    ReplyShown,
    Shown,
    ShownRange,
    Timing,
    Transcript,
    Usage,
)
from tests.domain.specification import CONVERSATION, appended, given, started

SHOWN = Shown(version=1, ranges=(), budget=10, tokens=1, encoding="o200k_base", renderer=1, request_sha256=b"\0" * 32)
QUESTION = InputItem(item_id="msg_q", item=b"{}")
REQUEST = RequestReply(response_id="resp_1", model="m", parameters=b"{}", input=(QUESTION,), shown=SHOWN)
REQUESTED = ReplyRequested(response_id="resp_1", model="m", parameters=b"{}", input=(QUESTION,), shown=SHOWN)
START = StartConversation(conversation_id=CONVERSATION, tenant="acme", owner="ann")
COMPLETE = CompleteReply(
    response_id="resp_1",
    model="m",
    author="ann",
    input=(QUESTION,),
    output=(NewItem(item_id="msg_a", item=b"{}"),),
    usage=Usage(input_tokens=1),
    finish_reason="stop",
    timing=Timing(first_ms=1, total_ms=2),
)
COMPLETED = ReplyCompleted(
    response_id="resp_1",
    model="m",
    input_ids=("msg_q",),
    output_ids=("msg_a",),
    usage=Usage(input_tokens=1),
    finish_reason="stop",
    timing=Timing(first_ms=1, total_ms=2),
)


def items(*ids: str) -> AppendItems:
    return AppendItems(items=tuple(NewItem(item_id=item_id, item=b"{}") for item_id in ids), author="ann")


def test_a_conversation_starts_with_its_first_items() -> None:
    given().when(msgspec.structs.replace(START, items=items("msg_1", "msg_2").items)).then(
        started(), appended("msg_1", 1, None), appended("msg_2", 2, "msg_1")
    )


def test_a_conversation_that_exists_cannot_be_started() -> None:
    given(started()).when(START).refused(ConversationExists)


def test_items_are_appended_after_the_head() -> None:
    given(started(), appended("msg_1", 1, None)).when(items("msg_2", "msg_3")).then(
        appended("msg_2", 2, "msg_1"), appended("msg_3", 3, "msg_2")
    )


def test_appending_nothing_changes_nothing() -> None:
    given(started()).when(items()).then()


def test_a_conversation_that_never_started_is_not_found() -> None:
    for command in (items("msg_1"), REQUEST, EndConversation(), DeleteConversation(), RetractItem(item_id="msg_1")):
        given().when(command).refused(ConversationNotFound)


def test_a_deleted_conversation_is_not_found() -> None:
    for command in (items("msg_1"), REQUEST, COMPLETE, ReopenConversation(), DeleteConversation()):
        given(started(), REQUESTED, ConversationDeleted()).when(command).refused(ConversationNotFound)


def test_an_ended_conversation_refuses_items_and_replies() -> None:
    for command in (items("msg_1"), REQUEST):
        given(started(), ConversationEnded()).when(command).refused(ConversationIsEnded)


def test_ending_an_ended_conversation_or_reopening_an_active_one_records_nothing() -> None:
    given(started(), ConversationEnded()).when(EndConversation()).then()
    given(started()).when(ReopenConversation()).then()


def test_a_reopened_conversation_takes_items_again() -> None:
    given(started(), ConversationEnded()).when(ReopenConversation()).then(ConversationReopened())
    given(started(), ConversationEnded(), ConversationReopened()).when(items("msg_1")).then(appended("msg_1", 1, None))


def test_an_item_is_retracted_once() -> None:
    events = (started(), appended("msg_1", 1, None))
    retracted = ItemRetracted(item_id="msg_1", branch=0, depth=1)
    given(*events).when(RetractItem(item_id="msg_1")).then(retracted)
    given(*events, retracted).when(RetractItem(item_id="msg_1")).refused(ItemNotFound)
    given(*events).when(RetractItem(item_id="msg_2")).refused(ItemNotFound)


def test_only_fields_that_change_are_recorded() -> None:
    given(started(title="a", metadata={"k": "v"})).when(DescribeConversation(title="b", metadata={"k": "v"})).then(
        ConversationDescribed(title="b")
    )
    given(started(title="a")).when(DescribeConversation(title="a")).then()
    given(started(title="a")).when(DescribeConversation(title=None)).then(ConversationDescribed(title=None))


def test_a_model_may_title_only_an_untitled_conversation() -> None:
    events = (started(), appended("msg_1", 1, None))
    write = WriteTitle(title="T", title_items=("msg_1",), model="m", read_version=2)
    written = ConversationDescribed(title="T", title_by="model", title_items=("msg_1",), model="m")
    given(*events).when(write).then(written)
    given(*events, written).when(write).refused(TitleExists)
    given(*events, ConversationDescribed(title="A person's")).when(write).refused(TitleExists)
    given(*events, written).when(DescribeConversation(title="T")).then(ConversationDescribed(title="T"))

    retract, retracted = RetractItem(item_id="msg_1"), ItemRetracted(item_id="msg_1", branch=0, depth=1)
    given(*events, retracted).when(write).refused(ItemsDeleted)
    given(*events, written).when(retract).then(retracted, ConversationDescribed(title=None))
    given(*events, written, ConversationDescribed(title="T")).when(retract).then(retracted)


def test_a_reply_can_create_its_own_conversation() -> None:
    request = msgspec.structs.replace(REQUEST, start=msgspec.structs.replace(START, listed=False))
    given().when(request).then(started(listed=False), REQUESTED)


def test_a_completed_reply_is_appended_at_the_head() -> None:
    given(started(), REQUESTED, appended("msg_1", 1, None)).when(COMPLETE).then(
        appended("msg_q", 2, "msg_1", response_id="resp_1"),
        appended("msg_a", 3, "msg_q", response_id="resp_1"),
        COMPLETED,
    )


def test_a_reply_in_progress_completes_after_the_conversation_ended() -> None:
    given(started(), REQUESTED, ConversationEnded()).when(COMPLETE).then(
        appended("msg_q", 1, None, response_id="resp_1"), appended("msg_a", 2, "msg_q", response_id="resp_1"), COMPLETED
    )


def test_a_failed_reply_appends_no_item() -> None:
    given(started(), REQUESTED).when(FailReply(response_id="resp_1", code="c", message="m", output=(QUESTION,))).then(
        ReplyFailed(response_id="resp_1", code="c", message="m", output=(QUESTION,))
    )


def test_a_reply_ends_once() -> None:
    for end in (COMPLETED, ReplyFailed(response_id="resp_1", code="c", message="m")):
        for command in (COMPLETE, FailReply(response_id="resp_1", code="c", message="m")):
            given(started(), REQUESTED, end).when(command).refused(ReplyIsOver)


def test_a_second_reply_is_refused_until_the_first_has_ended() -> None:
    second = msgspec.structs.replace(REQUEST, response_id="resp_2")
    given(started(), REQUESTED).when(second).refused(ConversationLocked)
    for end in (
        COMPLETED,
        ReplyFailed(response_id="resp_1", code="c", message="m"),
        ReplyCancelled(response_id="resp_1"),
        ReplyInterrupted(response_id="resp_1", code="c"),
    ):
        given(started(), REQUESTED, end).when(second).then(msgspec.structs.replace(REQUESTED, response_id="resp_2"))


def test_a_reply_is_refused_if_the_head_is_not_the_expected_one() -> None:
    request = msgspec.structs.replace(REQUEST, expected_head="msg_1")
    events = (started(), appended("msg_1", 1, None))
    given(*events).when(request).then(REQUESTED)
    given(*events, appended("msg_2", 2, "msg_1")).when(request).refused(HeadHasMoved)
    given(*events).when(msgspec.structs.replace(REQUEST, expected_head=None)).refused(HeadHasMoved)


def test_a_fork_continues_after_its_item() -> None:
    fork = Fork(conversation_id="conv_0", item_id="msg_9", version=7, depth=4)
    fork_started = started(family="conv_0", forked_from=fork, listed=False)
    start = msgspec.structs.replace(START, forked_from=fork, family="conv_0", listed=False)
    given().when(msgspec.structs.replace(REQUEST, start=start)).then(fork_started, REQUESTED)
    given(fork_started, REQUESTED).when(COMPLETE).then(
        appended("msg_q", 5, "msg_9", response_id="resp_1"),
        appended("msg_a", 6, "msg_q", response_id="resp_1"),
        COMPLETED,
    )


def test_by_default_a_stopped_reply_appends_no_item_and_records_its_output() -> None:
    given(started(), REQUESTED).when(CancelReply(response_id="resp_1", output=(QUESTION,), delta_lengths=(1, 2))).then(
        ReplyCancelled(response_id="resp_1", output=(QUESTION,), delta_lengths=(1, 2))
    )
    given(started(), REQUESTED).when(InterruptReply(response_id="resp_1", code="c", output=(QUESTION,))).then(
        ReplyInterrupted(response_id="resp_1", code="c", output=(QUESTION,))
    )


DELETE = DeleteReply(response_id="resp_1", item_ids=("msg_q", "msg_a"))
DELETED = ReplyDeleted(response_id="resp_1")
UNLISTED = started(listed=False)
JOINED = (
    REQUESTED,
    appended("msg_q", 1, None, response_id="resp_1"),
    appended("msg_a", 2, "msg_q", response_id="resp_1"),
    COMPLETED,
)


def test_a_response_is_deleted_once() -> None:
    given(started(), *JOINED).when(DELETE).then(DELETED)
    given(started(), *JOINED, DELETED).when(DELETE).refused(ResponseNotFound)
    given(started()).when(DELETE).refused(ResponseNotFound)


def test_the_metadata_of_a_response_can_change_until_it_is_deleted() -> None:
    command = DescribeReply(response_id="resp_1", metadata={"k": "v"})
    described = ReplyDescribed(response_id="resp_1", metadata={"k": "v"})
    for events in ((REQUESTED,), JOINED, (REQUESTED, ReplyFailed(response_id="resp_1", code="c", message="m"))):
        given(started(), *events).when(command).then(described)
        given(started(), *events, described).when(command).then(described)
    given(started(), *JOINED, ConversationEnded()).when(command).then(described)
    given(started(), *JOINED, described, DELETED).when(command).refused(ResponseNotFound)
    given(started()).when(command).refused(ResponseNotFound)
    given(started(), *JOINED, described).when(DELETE).then(DELETED)


def test_a_chat_completion_lists_its_conversation_once() -> None:
    transcript = Transcript(instructions=(b'{"role":"system","content":"s"}',))
    command = msgspec.structs.replace(REQUEST, transcript=transcript, lists=True)
    requested = msgspec.structs.replace(REQUESTED, transcript=transcript)
    listed = ConversationDescribed(listed=True)
    given(UNLISTED).when(command).then(listed, requested)
    given(UNLISTED, listed).when(command).then(requested)
    given(started()).when(command).then(requested)


def test_a_running_response_is_cancelled_before_its_deletion() -> None:
    delete = DeleteReply(response_id="resp_1")
    cancelled = (ReplyCancelled(response_id="resp_1"), DELETED)
    given(started(), REQUESTED).when(delete).then(*cancelled)
    given(started(), REQUESTED, *cancelled).when(COMPLETE).refused(ReplyIsOver)
    # The response has completed since the caller looked up its items.
    given(UNLISTED, *JOINED).when(delete).refused(ReplyIsOver)


def test_an_unlisted_conversation_is_deleted_with_its_last_response() -> None:
    given(UNLISTED, *JOINED).when(DELETE).then(DELETED, ConversationDeleted())
    given(UNLISTED, REQUESTED).when(DeleteReply(response_id="resp_1")).then(
        ReplyCancelled(response_id="resp_1"), DELETED, ConversationDeleted()
    )
    retracted = (ItemRetracted(item_id="msg_a", branch=0, depth=2), ItemRetracted(item_id="msg_q", branch=0, depth=1))
    given(UNLISTED, *JOINED, *retracted).when(DELETE).then(DELETED, ConversationDeleted())


def test_deleting_one_response_of_an_unlisted_conversation_retracts_its_items() -> None:
    question = ItemRetracted(item_id="msg_q", branch=0, depth=1)
    answer = ItemRetracted(item_id="msg_a", branch=0, depth=2)
    second = msgspec.structs.replace(REQUESTED, response_id="resp_2")
    for more in (second, appended("msg_x", 3, "msg_a")):
        given(UNLISTED, *JOINED, more).when(DELETE).then(DELETED, question, answer)
    given(UNLISTED, *JOINED, second, answer).when(DELETE).then(DELETED, question)
    last_one = (second, DELETED, question, answer, ReplyFailed(response_id="resp_2", code="c", message="m"))
    given(UNLISTED, *JOINED, *last_one).when(DeleteReply(response_id="resp_2")).then(
        ReplyDeleted(response_id="resp_2"), ConversationDeleted()
    )


def test_a_retracted_item_can_be_restored() -> None:
    events = (started(), appended("msg_1", 1, None))
    pinned = ItemPinned(item_id="msg_1", branch=0, depth=1, pinned=("msg_1",))
    retracted = ItemRetracted(item_id="msg_1", branch=0, depth=1)
    restored = ItemRestored(item_id="msg_1", branch=0, depth=1)
    restore = RestoreItem(item_id="msg_1")
    given(*events).when(restore).then()
    given(*events, retracted).when(restore).then(restored)
    given(*events, retracted, restored).when(restore).then()
    unpinned = ItemUnpinned(item_id="msg_1", pinned=())
    given(*events, pinned, retracted).when(restore).then(restored, unpinned)
    given(*events, pinned, retracted, restored).when(UnpinItem(item_id="msg_1")).then(unpinned)
    given(*events, pinned, unpinned, retracted).when(restore).then(restored)
    given(*events, pinned, retracted, restored, unpinned, retracted).when(restore).then(restored)
    given(*events, retracted, restored, pinned, retracted).when(restore).then(restored, unpinned)
    other = ItemPinned(item_id="msg_2", branch=0, depth=2, pinned=("msg_2",))
    given(*events, appended("msg_2", 2, "msg_1"), pinned, retracted, other).when(restore).then(restored)
    inherited = KnownItem(depth=1, inherited=True)
    fork = started(
        forked_from=Fork(conversation_id="conv_0", item_id="msg_1", version=3, depth=1), pinned=("msg_1", "msg_0")
    )
    gone = ItemRetracted(item_id="msg_1", branch=0, depth=1, inherited=True)
    given(fork, gone).when(RestoreItem(item_id="msg_1", inherited=inherited)).then(
        ItemRestored(item_id="msg_1", branch=0, depth=1, inherited=True),
        ItemUnpinned(item_id="msg_1", pinned=("msg_0",)),
    )
    given(*events).when(RestoreItem(item_id="msg_2")).refused(ItemNotFound)
    given(*events, retracted, ConversationDeleted()).when(restore).refused(ConversationNotFound)
    answer = ItemRetracted(item_id="msg_a", branch=0, depth=2)
    of_reply = RestoreItem(item_id="msg_a", response_id="resp_1")
    given(UNLISTED, *JOINED, answer, DELETED).when(of_reply).refused(ItemNotFound)
    given(started(), *JOINED, answer, DELETED).when(of_reply).then(ItemRestored(item_id="msg_a", branch=0, depth=2))
    state = given(*events, retracted, restored).state
    assert state is not None
    assert (state.items, state.retracted_at) == (1, 4)


def test_a_conversation_is_archived_and_unarchived_once() -> None:
    archive, unarchive = ArchiveConversation(archived=True), ArchiveConversation(archived=False)
    archived = ConversationDescribed(archived=True)
    given(started(), ConversationEnded()).when(archive).then(archived)
    given(started(), archived).when(archive).then()
    given(started(), archived).when(unarchive).then(ConversationDescribed(archived=False))
    given(started()).when(unarchive).then()


def test_an_item_is_pinned_and_unpinned_once() -> None:
    events = (started(), appended("msg_1", 1, None))
    pinned = ItemPinned(item_id="msg_1", branch=0, depth=1, pinned=("msg_1",))
    given(*events).when(PinItem(item_id="msg_1")).then(pinned)
    given(*events, pinned).when(PinItem(item_id="msg_1")).then()
    given(*events, pinned).when(UnpinItem(item_id="msg_1")).then(ItemUnpinned(item_id="msg_1", pinned=()))
    given(*events).when(UnpinItem(item_id="msg_1")).then()
    retracted = ItemRetracted(item_id="msg_1", branch=0, depth=1)
    for command in (PinItem(item_id="msg_1"), UnpinItem(item_id="msg_1")):
        given(*events, pinned, retracted).when(command).refused(ItemNotFound)
    state = given(*events, pinned, retracted).state
    assert state is not None
    assert state.pinned == ()


def test_a_pin_over_the_maximum_is_refused() -> None:
    pinned = tuple(f"msg_{n}" for n in range(MAX_PINS))
    events = (started(), appended("msg_x", 1, None), ItemPinned(item_id="msg_0", branch=0, depth=1, pinned=pinned))
    given(*events).when(PinItem(item_id="msg_x")).refused(TooManyPins)


def test_a_summary_is_made_undone_and_redone() -> None:
    two_items = (started(), appended("msg_1", 1, None), appended("msg_2", 2, "msg_1"))
    given(*two_items).when(compact()).then(compaction())
    undo = UndoCompaction(undone=5, active=4, read_version=5)
    given(*two_items, compaction(), compaction(4)).when(undo).then(CompactionUndone(active=4, undone=5))
    redo = RedoCompaction(active=4, read_version=5)
    given(*two_items, compaction(), CompactionUndone(active=0, undone=4)).when(redo).then(CompactionRedone(active=4))


def test_without_a_summary_there_is_nothing_to_undo_or_redo() -> None:
    given(started()).when(UndoCompaction(undone=0, active=0, read_version=1)).refused(NothingToUndo)
    given(started()).when(RedoCompaction(active=0, read_version=1)).refused(NothingToUndo)


def test_a_summary_change_is_refused_if_summaries_or_path_changed_meanwhile() -> None:
    events = (started(), appended("msg_1", 1, None), appended("msg_2", 2, "msg_1"), compaction())
    moved = HeadMoved(item_id="msg_1", depth=1, path=(PathBranch(0, 1, 2),))
    retracted = ItemRetracted(item_id="msg_1", branch=0, depth=1)
    undone, redone = CompactionUndone(active=0, undone=4), CompactionRedone(active=4)
    for command in (
        msgspec.structs.replace(compact(), read_version=4),
        UndoCompaction(undone=4, active=0, read_version=4),
        RedoCompaction(active=4, read_version=4),
    ):
        for meanwhile in (compaction(4), undone, redone, retracted, moved):
            given(*events, meanwhile).when(command).refused(SummaryHasChanged)


def test_a_summary_of_items_read_before_a_retraction_is_refused() -> None:
    events = (started(), appended("msg_1", 1, None), appended("msg_2", 2, "msg_1"))
    retracted = ItemRetracted(item_id="msg_1", branch=0, depth=1)
    given(*events, retracted).when(compact()).refused(SummaryHasChanged)
    given(*events, retracted).when(msgspec.structs.replace(compact(), read_version=4)).then(compaction())


def test_a_reply_whose_context_was_read_before_a_retraction_is_refused() -> None:
    events = (started(), appended("msg_1", 1, None), ItemRetracted(item_id="msg_1", branch=0, depth=1))
    shown = msgspec.structs.replace(
        SHOWN, version=2, ranges=(ShownRange(first="msg_1", last="msg_1", count=1, tokens=1),)
    )
    given(*events).when(msgspec.structs.replace(REQUEST, shown=shown)).refused(ItemsDeleted)
    read_again = msgspec.structs.replace(shown, version=3)
    given(*events).when(msgspec.structs.replace(REQUEST, shown=read_again)).then(
        msgspec.structs.replace(REQUESTED, shown=read_again)
    )


def test_the_state_of_a_deleted_conversation_keeps_no_content() -> None:
    state = given(started(title="t", instructions="i", metadata={"k": "v"}), ConversationDeleted()).state
    assert state is not None
    assert (state.title, state.instructions, state.metadata) == (None, None, {})


def test_a_summary_or_reply_made_from_lost_events_is_refused() -> None:
    given(started(), appended("msg_1", 1, None)).when(compact()).refused(HistoryLost)
    later = msgspec.structs.replace(REQUEST, shown=msgspec.structs.replace(SHOWN, version=2))
    given(started()).when(later).refused(HistoryLost)
    given(started(), appended("msg_1", 1, None)).when(later).then(msgspec.structs.replace(REQUESTED, shown=later.shown))


def test_a_retry_is_refused_if_an_item_of_its_input_has_joined() -> None:
    retry = msgspec.structs.replace(REQUEST, reuses=("msg_9",))
    given(started()).when(retry).then(REQUESTED)
    given(started(), appended("msg_9", 1, None)).when(retry).refused(InputHasJoined)


def compact(replaces: int = 0) -> CompactContext:
    facts = {name: getattr(compaction(replaces), name) for name in ContextCompacted.__struct_fields__}
    return CompactContext(read_version=3, **facts)


def test_another_context_of_a_running_reply_is_recorded_if_its_items_exist() -> None:
    replace = msgspec.structs.replace
    shown = replace(SHOWN, ranges=(ShownRange(first="msg_1", last="msg_1", count=1, tokens=1),), version=2)
    command = ShowReply(response_id="resp_1", model="m", shown=shown, reason="window")
    running = given(started(), appended("msg_1", 1, None), REQUESTED)
    running.when(command).then(ReplyShown(response_id="resp_1", model="m", shown=shown, reason="window"))
    beside = replace(REQUESTED, after=Leaf(None, 0, ()))
    given(started(), appended("msg_1", 1, None), beside).when(command).then(
        ReplyShown(response_id="resp_1", model="m", shown=shown, reason="window", aside=True)
    )
    running.when(replace(command, response_id="resp_2")).refused(ReplyIsOver)
    running.when(replace(command, shown=replace(shown, version=9))).refused(HistoryLost)
    retracted = ItemRetracted(item_id="msg_1", branch=0, depth=1)
    deleted = given(started(), appended("msg_1", 1, None), REQUESTED, retracted)
    deleted.when(command).refused(ItemsDeleted)


def compaction(replaces: int = 0) -> ContextCompacted:
    return ContextCompacted(
        compaction_id="cmp_1",
        summary="s",
        first="msg_1",
        last="msg_2",
        depth=2,
        count=2,
        tokens_before=9,
        tokens_after=1,
        model="m",
        replaces=replaces,
    )


ids = st.integers(0, 9)
commands: st.SearchStrategy[Command] = st.one_of(
    st.lists(ids, max_size=3).map(lambda numbers: items(*(f"msg_new_{n}" for n in numbers))),
    ids.map(lambda n: RetractItem(item_id=f"msg_{n}")),
    ids.map(lambda n: msgspec.structs.replace(REQUEST, response_id=f"resp_{n}")),
    ids.map(lambda n: msgspec.structs.replace(COMPLETE, response_id=f"resp_{n}")),
    ids.map(lambda n: FailReply(response_id=f"resp_{n}", code="c", message="m")),
    ids.map(lambda n: CancelReply(response_id=f"resp_{n}")),
    ids.map(lambda n: InterruptReply(response_id=f"resp_{n}", code="c")),
    ids.map(lambda n: PinItem(item_id=f"msg_{n}")),
    ids.map(lambda n: UnpinItem(item_id=f"msg_{n}")),
    ids.map(lambda n: compact(replaces=n)),
    st.builds(UndoCompaction, undone=ids, active=ids, read_version=ids),
    st.builds(RedoCompaction, active=ids, read_version=ids),
    st.just(EndConversation()),
    st.just(ReopenConversation()),
    st.builds(DescribeConversation, title=st.sampled_from([None, "a", "b"])),
)


@for_any(st.lists(commands, max_size=40))
def test_after_any_commands_the_path_has_no_gaps_and_no_reply_ended_twice(drawn: list[Command]) -> None:
    state: Conversation | None = None
    known_items: dict[str, KnownItem] = {}
    log: list[Event] = []
    minted = 0
    for drawn_command in (START, *drawn):
        command = drawn_command
        if isinstance(drawn_command, AppendItems):  # each item id is used once
            command = items(*(f"msg_{minted + n}" for n in range(len(drawn_command.items))))
            minted += len(drawn_command.items)
        if isinstance(command, RequestReply) and any(
            getattr(event, "response_id", "") == command.response_id for event in log
        ):
            continue
        try:
            events = decide(CONVERSATION, state, command, known_items)
        except Refused:
            continue
        for event in events:
            state = evolve(state, event)
            if event.row_key and (item := evolve_item(known_items.get(event.row_key), event)):
                known_items[event.row_key] = item
        log += events
    assert state is not None
    assert state.version == len(log)
    path = [event for event in log if isinstance(event, ItemAppended)]
    assert [event.depth for event in path] == list(range(1, len(path) + 1))
    assert [event.parent_id for event in path] == [None, *(event.item_id for event in path)][: len(path)]
    assert state.depth == len(path)
    ended = [event.response_id for event in log if isinstance(event, REPLY_ENDS)]
    requested = [event.response_id for event in log if isinstance(event, ReplyRequested)]
    assert len(set(ended)) == len(ended)
    assert set(state.at_head) == set(requested) - set(ended)
    assert len(state.running) <= 1
    retracted = {event.item_id for event in log if isinstance(event, ItemRetracted)}
    assert not retracted & set(state.pinned)
