"""The rules of a conversation, one outcome a test."""

import msgspec
from hypothesis import given as for_any
from hypothesis import strategies as st

from domain.commands import (
    AppendItems,
    Command,
    CompleteReply,
    DeleteConversation,
    DescribeConversation,
    EndConversation,
    FailReply,
    NewItem,
    ReopenConversation,
    RequestReply,
    RetractItem,
    StartConversation,
)
from domain.conversation import Conversation, KnownItem, evolve, evolve_item
from domain.decide import decide
from domain.errors import (
    ConversationExists,
    ConversationIsEnded,
    ConversationNotFound,
    ItemNotFound,
    Refused,
    ReplyIsOver,
)
from domain.events import (
    ConversationDeleted,
    ConversationDescribed,
    ConversationEnded,
    ConversationReopened,
    Event,
    InputItem,
    ItemAppended,
    ItemRetracted,
    ReplyCompleted,
    ReplyFailed,
    ReplyRequested,
    Shown,
    Timing,
    Usage,
)
from tests.domain.specification import CONVERSATION, appended, given, started

SHOWN = Shown(version=1, ranges=(), budget=10, tokens=1, encoding="o200k_base", renderer=1, request_sha256=b"\0" * 32)
ASKED = InputItem(item_id="msg_q", item=b"{}")
REQUEST = RequestReply(response_id="resp_1", model="m", parameters=b"{}", input=(ASKED,), shown=SHOWN)
REQUESTED = ReplyRequested(response_id="resp_1", model="m", parameters=b"{}", input=(ASKED,), shown=SHOWN)
START = StartConversation(conversation_id=CONVERSATION, tenant="acme", owner="ann")
COMPLETE = CompleteReply(
    response_id="resp_1",
    model="m",
    author="ann",
    input=(ASKED,),
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


def test_a_conversation_starts_with_its_first_items_one_below_the_other() -> None:
    given().when(msgspec.structs.replace(START, items=items("msg_1", "msg_2").items)).then(
        started(), appended("msg_1", 1, None), appended("msg_2", 2, "msg_1")
    )


def test_a_conversation_starts_once() -> None:
    given(started()).when(START).refused(ConversationExists)


def test_items_go_below_the_head() -> None:
    given(started(), appended("msg_1", 1, None)).when(items("msg_2", "msg_3")).then(
        appended("msg_2", 2, "msg_1"), appended("msg_3", 3, "msg_2")
    )


def test_appending_nothing_changes_nothing() -> None:
    given(started()).when(items()).then()


def test_nothing_can_be_asked_of_what_never_started() -> None:
    for command in (items("msg_1"), REQUEST, EndConversation(), DeleteConversation(), RetractItem(item_id="msg_1")):
        given().when(command).refused(ConversationNotFound)


def test_nothing_can_be_asked_of_what_was_deleted() -> None:
    for command in (items("msg_1"), REQUEST, COMPLETE, ReopenConversation(), DeleteConversation()):
        given(started(), REQUESTED, ConversationDeleted()).when(command).refused(ConversationNotFound)


def test_an_ended_conversation_takes_neither_items_nor_questions() -> None:
    for command in (items("msg_1"), REQUEST):
        given(started(), ConversationEnded()).when(command).refused(ConversationIsEnded)


def test_ending_twice_and_reopening_what_is_open_change_nothing() -> None:
    given(started(), ConversationEnded()).when(EndConversation()).then()
    given(started()).when(ReopenConversation()).then()


def test_a_reopened_conversation_goes_on() -> None:
    given(started(), ConversationEnded()).when(ReopenConversation()).then(ConversationReopened())
    given(started(), ConversationEnded(), ConversationReopened()).when(items("msg_1")).then(appended("msg_1", 1, None))


def test_an_item_is_retracted_once() -> None:
    there = (started(), appended("msg_1", 1, None))
    gone = ItemRetracted(item_id="msg_1", branch=0, depth=1)
    given(*there).when(RetractItem(item_id="msg_1")).then(gone)
    given(*there, gone).when(RetractItem(item_id="msg_1")).refused(ItemNotFound)
    given(*there).when(RetractItem(item_id="msg_2")).refused(ItemNotFound)


def test_only_what_changes_is_described() -> None:
    given(started(title="a", metadata={"k": "v"})).when(DescribeConversation(title="b", metadata={"k": "v"})).then(
        ConversationDescribed(title="b")
    )
    given(started(title="a")).when(DescribeConversation(title="a")).then()
    given(started(title="a")).when(DescribeConversation(title=None)).then(ConversationDescribed(title=None))


def test_a_reply_can_begin_a_conversation_of_its_own() -> None:
    own = msgspec.structs.replace(REQUEST, start=msgspec.structs.replace(START, listed=False))
    given().when(own).then(started(listed=False), REQUESTED)


def test_a_reply_joins_at_the_head_as_it_is_when_it_completes() -> None:
    given(started(), REQUESTED, appended("msg_1", 1, None)).when(COMPLETE).then(
        appended("msg_q", 2, "msg_1", response_id="resp_1"),
        appended("msg_a", 3, "msg_q", response_id="resp_1"),
        COMPLETED,
    )


def test_a_reply_that_was_asked_for_completes_though_the_conversation_ended() -> None:
    given(started(), REQUESTED, ConversationEnded()).when(COMPLETE).then(
        appended("msg_q", 1, None, response_id="resp_1"), appended("msg_a", 2, "msg_q", response_id="resp_1"), COMPLETED
    )


def test_a_failed_reply_leaves_no_item() -> None:
    given(started(), REQUESTED).when(FailReply(response_id="resp_1", code="c", message="m", output=(ASKED,))).then(
        ReplyFailed(response_id="resp_1", code="c", message="m", output=(ASKED,))
    )


def test_a_reply_ends_once() -> None:
    for end in (COMPLETED, ReplyFailed(response_id="resp_1", code="c", message="m")):
        for command in (COMPLETE, FailReply(response_id="resp_1", code="c", message="m")):
            given(started(), REQUESTED, end).when(command).refused(ReplyIsOver)


ids = st.integers(0, 9)
commands: st.SearchStrategy[Command] = st.one_of(
    st.lists(ids, max_size=3).map(lambda ns: items(*(f"msg_new_{n}" for n in ns))),
    ids.map(lambda n: RetractItem(item_id=f"msg_{n}")),
    ids.map(lambda n: msgspec.structs.replace(REQUEST, response_id=f"resp_{n}")),
    ids.map(lambda n: msgspec.structs.replace(COMPLETE, response_id=f"resp_{n}")),
    ids.map(lambda n: FailReply(response_id=f"resp_{n}", code="c", message="m")),
    st.just(EndConversation()),
    st.just(ReopenConversation()),
    st.builds(DescribeConversation, title=st.sampled_from([None, "a", "b"])),
)


@for_any(st.lists(commands, max_size=40))
def test_whatever_is_asked_the_path_is_whole_and_every_reply_ends_at_most_once(asked: list[Command]) -> None:
    state: Conversation | None = None
    known: dict[str, KnownItem] = {}
    log: list[Event] = []
    minted = 0
    for wanted in (START, *asked):
        command = wanted
        if isinstance(wanted, AppendItems):  # ids come from outside, and never twice
            command = items(*(f"msg_{minted + n}" for n in range(len(wanted.items))))
            minted += len(wanted.items)
        if isinstance(command, RequestReply) and any(getattr(e, "response_id", "") == command.response_id for e in log):
            continue
        try:
            events = decide(CONVERSATION, state, command, known)
        except Refused:
            continue
        for event in events:
            state = evolve(state, event)
            if event.row_id and (item := evolve_item(known.get(event.row_id), event)):
                known[event.row_id] = item
        log += events
    assert state is not None
    assert state.version == len(log)
    path = [event for event in log if isinstance(event, ItemAppended)]
    assert [event.depth for event in path] == list(range(1, len(path) + 1))
    assert [event.parent_id for event in path] == [None, *(event.item_id for event in path)][: len(path)]
    assert state.depth == len(path)
    ended = [event.response_id for event in log if isinstance(event, ReplyCompleted | ReplyFailed)]
    asked_for = [event.response_id for event in log if isinstance(event, ReplyRequested)]
    assert len(set(ended)) == len(ended)
    assert set(state.running) == set(asked_for) - set(ended)
