"""The rules of conversations: given past events, when a command comes, then these events follow or it is refused."""

import msgspec
from hypothesis import given as for_any
from hypothesis import strategies as st

from domain.commands import (
    AppendItems,
    CancelReply,
    Command,
    CompactContext,
    CompleteReply,
    DeleteConversation,
    DeleteReply,
    DescribeConversation,
    EndConversation,
    FailReply,
    InterruptReply,
    NewItem,
    PinItem,
    RedoCompaction,
    ReopenConversation,
    RequestReply,
    RetractItem,
    StartConversation,
    UndoCompaction,
    UnpinItem,
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
    ItemNotFound,
    NothingToUndo,
    Refused,
    ReplyIsOver,
    ReplyIsRunning,
    ResponseNotFound,
    SummaryHasChanged,
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
    InputItem,
    ItemAppended,
    ItemPinned,
    ItemRetracted,
    ItemUnpinned,
    ReplyCancelled,
    ReplyCompleted,
    ReplyDeleted,
    ReplyFailed,
    ReplyInterrupted,
    ReplyRequested,
    Shown,
    Timing,
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


def test_a_conversation_starts_with_its_first_items_each_the_parent_of_the_next() -> None:
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


def test_ending_an_ended_and_reopening_an_active_conversation_change_nothing() -> None:
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


def test_a_reply_can_create_its_own_conversation() -> None:
    request = msgspec.structs.replace(REQUEST, start=msgspec.structs.replace(START, listed=False))
    given().when(request).then(started(listed=False), REQUESTED)


def test_a_reply_is_appended_at_the_head_that_the_conversation_has_when_it_completes() -> None:
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


def test_a_reply_with_an_expected_head_is_refused_when_the_head_has_moved() -> None:
    request = msgspec.structs.replace(REQUEST, expected_head="msg_1")
    events = (started(), appended("msg_1", 1, None))
    given(*events).when(request).then(REQUESTED)
    given(*events, appended("msg_2", 2, "msg_1")).when(request).refused(HeadHasMoved)
    given(*events).when(msgspec.structs.replace(REQUEST, expected_head=None)).refused(HeadHasMoved)


def test_a_fork_continues_after_the_item_it_was_forked_at() -> None:
    fork = Fork(conversation_id="conv_0", item_id="msg_9", version=7, depth=4)
    fork_started = started(family="conv_0", forked_from=fork, listed=False)
    start = msgspec.structs.replace(START, forked_from=fork, family="conv_0", listed=False)
    given().when(msgspec.structs.replace(REQUEST, start=start)).then(fork_started, REQUESTED)
    given(fork_started, REQUESTED).when(COMPLETE).then(
        appended("msg_q", 5, "msg_9", response_id="resp_1"),
        appended("msg_a", 6, "msg_q", response_id="resp_1"),
        COMPLETED,
    )


def test_a_cancelled_or_interrupted_reply_appends_no_item_and_records_its_output() -> None:
    given(started(), REQUESTED).when(CancelReply(response_id="resp_1", output=(QUESTION,), delta_lengths=(1, 2))).then(
        ReplyCancelled(response_id="resp_1", output=(QUESTION,), delta_lengths=(1, 2))
    )
    given(started(), REQUESTED).when(InterruptReply(response_id="resp_1", code="c", output=(QUESTION,))).then(
        ReplyInterrupted(response_id="resp_1", code="c", output=(QUESTION,))
    )


def test_a_response_is_deleted_once_and_not_while_it_is_in_progress() -> None:
    delete, deleted = DeleteReply(response_id="resp_1"), ReplyDeleted(response_id="resp_1")
    given(started(), REQUESTED).when(delete).refused(ReplyIsRunning)
    given(started(), REQUESTED, COMPLETED).when(delete).then(deleted)
    given(started(), REQUESTED, COMPLETED, deleted).when(delete).refused(ResponseNotFound)
    given(started()).when(delete).refused(ResponseNotFound)


def test_an_item_is_pinned_and_unpinned_once_and_a_retracted_one_is_neither() -> None:
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


def test_a_summary_replaces_the_active_one_and_can_be_undone_and_redone() -> None:
    two_items = (started(), appended("msg_1", 1, None), appended("msg_2", 2, "msg_1"))
    first = compaction()
    given(*two_items).when(compact()).then(first)
    given(*two_items, first).when(compact()).refused(SummaryHasChanged)
    second = msgspec.structs.replace(first, replaces=4)
    given(*two_items, first).when(compact(replaces=4)).then(second)
    given(*two_items, first, second).when(UndoCompaction()).then(CompactionUndone(active=4))
    undone = (*two_items, first, second, CompactionUndone(active=4))
    given(*undone).when(UndoCompaction()).then(CompactionUndone(active=0))
    given(*undone).when(RedoCompaction()).then(CompactionRedone(active=5))
    given(*undone).when(compact(replaces=5)).refused(SummaryHasChanged)
    given(*undone, CompactionRedone(active=5)).when(RedoCompaction()).refused(NothingToUndo)
    given(*undone, second).when(RedoCompaction()).refused(NothingToUndo)
    given(*two_items).when(UndoCompaction()).refused(NothingToUndo)


def test_what_was_made_from_events_that_the_log_has_lost_is_refused() -> None:
    given(started(), appended("msg_1", 1, None)).when(compact()).refused(HistoryLost)
    later = msgspec.structs.replace(REQUEST, shown=msgspec.structs.replace(SHOWN, version=2))
    given(started()).when(later).refused(HistoryLost)
    given(started(), appended("msg_1", 1, None)).when(later).then(msgspec.structs.replace(REQUESTED, shown=later.shown))


def compact(replaces: int = 0) -> CompactContext:
    return CompactContext(**{name: getattr(compaction(replaces), name) for name in ContextCompacted.__struct_fields__})


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
    st.just(UndoCompaction()),
    st.just(RedoCompaction()),
    st.just(EndConversation()),
    st.just(ReopenConversation()),
    st.builds(DescribeConversation, title=st.sampled_from([None, "a", "b"])),
)


@for_any(st.lists(commands, max_size=40))
def test_after_any_commands_the_path_has_no_gaps_and_each_reply_ended_at_most_once(drawn: list[Command]) -> None:
    state: Conversation | None = None
    known_items: dict[str, KnownItem] = {}
    log: list[Event] = []
    minted = 0
    for drawn_command in (START, *drawn):
        command = drawn_command
        if isinstance(drawn_command, AppendItems):  # each id is minted once
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
    assert set(state.running) == set(requested) - set(ended)
    assert len(state.running) <= 1
    retracted = {event.item_id for event in log if isinstance(event, ItemRetracted)}
    assert not retracted & set(state.pinned)
    compacted = {version for version, event in enumerate(log, 1) if isinstance(event, ContextCompacted)}
    assert {*state.summaries, *state.undone} <= compacted
