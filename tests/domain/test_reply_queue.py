"""The rules of replies that wait for their turn."""

from domain.commands import (
    CancelReply,
    CompleteReply,
    DeleteReply,
    FailReply,
    InterruptReply,
    QueueReply,
    ReadQueueState,
    RequestReply,
)
from domain.conversation import Conversation, fold
from domain.errors import ConversationIsEnded, ConversationLocked, ReplyIsOver, TooManyQueued
from domain.events import (
    ConversationEnded,
    Event,
    InputItem,
    ReplyCancelled,
    ReplyCompleted,
    ReplyDeleted,
    ReplyFailed,
    ReplyInterrupted,
    ReplyQueued,
    ReplyRequested,
    Shown,
    Timing,
    Usage,
)
from domain.reply_queue import MAX_QUEUED
from tests.domain.specification import given, started

SHOWN = Shown(version=1, ranges=(), budget=10, tokens=1, encoding="o200k_base", renderer=1, request_sha256=b"\0" * 32)
QUESTION = InputItem(item_id="msg_q", item=b"{}")


def requested(response_id: str, *, queued: bool = False) -> ReplyRequested:
    return ReplyRequested(
        response_id=response_id, model="m", parameters=b"{}", input=(QUESTION,), shown=SHOWN, queued=queued
    )


def request(response_id: str, *, queued: bool = False) -> RequestReply:
    return RequestReply(
        response_id=response_id, model="m", parameters=b"{}", input=(QUESTION,), shown=SHOWN, queued=queued
    )


def waiting(response_id: str, *, interrupts: bool = False) -> ReplyQueued:
    return ReplyQueued(
        response_id=response_id, model="m", parameters=b"{}", input=(QUESTION,), renderer=1, interrupts=interrupts
    )


def queue(response_id: str, *, interrupts: bool = False) -> QueueReply:
    return QueueReply(
        response_id=response_id, model="m", parameters=b"{}", input=(QUESTION,), renderer=1, interrupts=interrupts
    )


def cancelled(response_id: str) -> ReplyCancelled:
    return ReplyCancelled(response_id=response_id)


def completed(response_id: str) -> ReplyCompleted:
    return ReplyCompleted(
        response_id=response_id,
        model="m",
        input_ids=(),
        output_ids=(),
        usage=Usage(),
        finish_reason="stop",
        timing=Timing(first_ms=1, total_ms=2),
    )


def state(*events: Event) -> Conversation:
    folded = fold((started(), *events))
    assert folded is not None
    return folded


def test_a_reply_can_be_queued_whether_or_not_others_run_or_wait() -> None:
    given(started()).when(queue("r1")).then(waiting("r1"))
    given(started(), requested("r1")).when(queue("r2")).then(waiting("r2"))
    given(started(), requested("r1"), waiting("r2")).when(queue("r3")).then(waiting("r3"))
    given(started(), ConversationEnded()).when(queue("r1")).refused(ConversationIsEnded)


def test_at_most_sixteen_replies_wait_besides_one_that_interrupts() -> None:
    full = [waiting(f"r{number}") for number in range(MAX_QUEUED)]
    given(started(), *full).when(queue("late")).refused(TooManyQueued)
    given(started(), *full).when(queue("now", interrupts=True)).then(waiting("now", interrupts=True))
    given(started(), *full, waiting("now", interrupts=True)).when(queue("late")).refused(TooManyQueued)
    given(started(), *full[1:], waiting("now", interrupts=True)).when(queue("late")).then(waiting("late"))
    given(started(), *full, cancelled("r3")).when(queue("late")).then(waiting("late"))


def test_only_the_first_waiting_reply_may_be_requested() -> None:
    two = (started(), waiting("r1"), waiting("r2"))
    given(*two).when(request("r1", queued=True)).then(requested("r1", queued=True))
    given(*two).when(request("r2", queued=True)).refused(ConversationLocked)
    given(*two).when(request("r3")).refused(ConversationLocked)
    given(started(), requested("r0"), waiting("r1")).when(request("r1", queued=True)).refused(ConversationLocked)
    given(*two, requested("r1", queued=True), completed("r1")).when(request("r2", queued=True)).then(
        requested("r2", queued=True)
    )


def test_a_reply_that_left_the_queue_cannot_be_requested() -> None:
    taken_out = (started(), waiting("r1"), waiting("r2"), cancelled("r1"))
    given(*taken_out).when(request("r1", queued=True)).refused(ReplyIsOver)
    given(*taken_out).when(request("r2", queued=True)).then(requested("r2", queued=True))
    given(started(), waiting("r1"), requested("r1", queued=True)).when(request("r1", queued=True)).refused(ReplyIsOver)


def test_a_waiting_reply_can_end_in_any_way_except_completion() -> None:
    waits = (started(), requested("r0"), waiting("r1"))
    given(*waits).when(CancelReply(response_id="r1")).then(cancelled("r1"))
    given(*waits).when(InterruptReply(response_id="r1", code="c")).then(ReplyInterrupted(response_id="r1", code="c"))
    failed = FailReply(response_id="r1", code="c", message="m")
    given(*waits).when(failed).then(ReplyFailed(response_id="r1", code="c", message="m"))
    given(*waits).when(DeleteReply(response_id="r1")).then(cancelled("r1"), ReplyDeleted(response_id="r1"))
    complete = CompleteReply(
        response_id="r1",
        model="m",
        author="a",
        input=(),
        output=(),
        usage=Usage(),
        finish_reason="stop",
        timing=Timing(first_ms=1, total_ms=2),
    )
    given(*waits).when(complete).refused(ReplyIsOver)
    given(*waits, cancelled("r1")).when(CancelReply(response_id="r1")).refused(ReplyIsOver)


def test_the_newest_interrupting_reply_goes_first() -> None:
    waits = (started(), requested("r0"), waiting("r1"))
    given(*waits).when(queue("now", interrupts=True)).then(waiting("now", interrupts=True))
    first = (*waits, waiting("now", interrupts=True))
    assert state(*first[1:]).queued == ("now", "r1")
    given(*first).when(queue("newer", interrupts=True)).then(cancelled("now"), waiting("newer", interrupts=True))
    newer = state(*first[1:], cancelled("now"), waiting("newer", interrupts=True))
    assert (newer.queued, newer.interrupting) == (("newer", "r1"), "newer")
    given(*first, cancelled("r0"), requested("now", queued=True)).when(queue("newer", interrupts=True)).then(
        waiting("newer", interrupts=True)
    )


def test_the_state_lists_running_and_waiting_replies_and_counts_each_once() -> None:
    running = state(waiting("r1"), waiting("r2"), requested("r1", queued=True))
    assert (running.at_head, running.queued, running.replies) == (("r1",), ("r2",), 2)
    interrupting = state(waiting("r1", interrupts=True), requested("r1", queued=True))
    assert (interrupting.queued, interrupting.interrupting) == ((), None)
    ended = state(waiting("r1"), waiting("r2"), cancelled("r2"), requested("r1", queued=True), completed("r1"))
    assert (ended.running, ended.queued) == ((), ())


def test_reading_the_queue_changes_nothing() -> None:
    given(started(), waiting("r1")).when(ReadQueueState()).then()
    given(started(), ConversationEnded()).when(ReadQueueState()).then()
