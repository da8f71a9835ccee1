"""`context_policy.stopped` decides which items of a stopped reply join its conversation."""

from typing import Any

import msgspec
import pytest

from domain.commands import CancelReply, DeleteReply, FailReply, InterruptReply, RequestReply
from domain.errors import HeadHasMoved
from domain.events import (
    ContextPolicy,
    ConversationDeleted,
    ConversationDescribed,
    ConversationEnded,
    Event,
    HeadMoved,
    InputItem,
    ItemRetracted,
    PathBranch,
    ReplyCancelled,
    ReplyDeleted,
    ReplyFailed,
    ReplyInterrupted,
    ReplyRequested,
    Shown,
)
from tests.domain.specification import appended, given, started

KEEP = ContextPolicy(stopped="keep")
SHOWN = Shown(version=1, ranges=(), budget=9, tokens=1, encoding="e", renderer=1, request_sha256=b"")
QUESTION = InputItem(item_id="msg_q", item=b"{}")
REQUEST = RequestReply(response_id="resp_1", model="m", parameters=b"{}", input=(QUESTION,), shown=SHOWN)
REQUESTED = ReplyRequested(response_id="resp_1", model="m", parameters=b"{}", input=(QUESTION,), shown=SHOWN)
FACTS: dict[str, Any] = {"response_id": "resp_1", "author": "ann", "input": (QUESTION,), "delta_lengths": (1,)}


def item(item_id: str, **fields: Any) -> InputItem:
    return InputItem(item_id=item_id, item=msgspec.json.encode(fields))


def joined(*items: InputItem) -> list[Event]:
    parents = [None, *(each.item_id for each in items)]
    return [
        appended(each.item_id, depth, parents[depth - 1], item=each.item, response_id="resp_1")
        for depth, each in enumerate(items, 1)
    ]


TEXT = item("msg_a", type="message", content=[{"type": "output_text", "text": "par"}], status="incomplete")
EMPTY = item("msg_a", type="message", content=[], status="incomplete")
REFUSAL = item("msg_a", type="message", content=[{"type": "refusal", "refusal": "no"}], status="incomplete")
THOUGHT = item("rs_1", type="reasoning", summary=[], status="completed")
HALF_THOUGHT = item("rs_1", type="reasoning", summary=[], status="incomplete")
CALL = item("fc_1", type="function_call", call_id="c", name="f", arguments="{}", status="completed")
HALF_CALL = item("fc_2", type="function_call", call_id="d", name="f", arguments='{"a', status="incomplete")


@pytest.mark.parametrize(
    ("output", "joining"),
    [
        ((), ()),
        ((TEXT,), (TEXT,)),
        ((REFUSAL,), (REFUSAL,)),
        ((EMPTY,), ()),
        ((THOUGHT, TEXT), (THOUGHT, TEXT)),
        ((HALF_THOUGHT,), ()),
        ((CALL,), (CALL,)),
        ((CALL, HALF_CALL), (CALL,)),
        ((THOUGHT, HALF_CALL), (THOUGHT,)),
    ],
)
def test_the_question_and_usable_items_join_if_stopped_replies_are_kept(
    output: tuple[InputItem, ...], joining: tuple[InputItem, ...]
) -> None:
    facts: dict[str, Any] = {
        "response_id": "resp_1",
        "delta_lengths": (1,),
        "output": output[len(joining) :],
        "input_ids": ("msg_q",),
        "output_ids": tuple(each.item_id for each in joining),
    }
    past = given(started(context_policy=KEEP), REQUESTED)
    items = joined(QUESTION, *joining)
    past.when(CancelReply(**FACTS, output=output)).then(*items, ReplyCancelled(**facts))
    past.when(InterruptReply(**FACTS, output=output, code="c")).then(*items, ReplyInterrupted(**facts, code="c"))


def test_the_policy_at_the_end_of_the_reply_decides_whether_items_join() -> None:
    cancel = CancelReply(**FACTS, output=(TEXT,))
    dropped = ReplyCancelled(response_id="resp_1", output=(TEXT,), delta_lengths=(1,))
    kept = ReplyCancelled(response_id="resp_1", delta_lengths=(1,), input_ids=("msg_q",), output_ids=("msg_a",))
    keeps, drops = ConversationDescribed(context_policy=KEEP), ConversationDescribed(context_policy=ContextPolicy())
    given(started(), REQUESTED).when(cancel).then(dropped)
    given(started(), REQUESTED, keeps).when(cancel).then(*joined(QUESTION, TEXT), kept)
    given(started(context_policy=KEEP), REQUESTED, drops).when(cancel).then(dropped)
    given(started(), REQUESTED, keeps, ConversationEnded()).when(cancel).then(*joined(QUESTION, TEXT), kept)


def test_the_items_of_a_failed_or_deleted_running_reply_do_not_join() -> None:
    past = given(started(context_policy=KEEP), REQUESTED)
    past.when(FailReply(response_id="resp_1", code="c", message="m", output=(TEXT,))).then(
        ReplyFailed(response_id="resp_1", code="c", message="m", output=(TEXT,))
    )
    past.when(DeleteReply(response_id="resp_1")).then(
        ReplyCancelled(response_id="resp_1"), ReplyDeleted(response_id="resp_1")
    )


STOPPED = (
    REQUESTED,
    *joined(QUESTION, TEXT),
    ReplyCancelled(response_id="resp_1", input_ids=("msg_q",), output_ids=("msg_a",)),
)


def test_deleting_a_stopped_response_retracts_items_only_in_an_unlisted_conversation() -> None:
    delete = DeleteReply(response_id="resp_1", item_ids=("msg_q", "msg_a"))
    deleted = ReplyDeleted(response_id="resp_1")
    given(started(context_policy=KEEP), *STOPPED).when(delete).then(deleted)
    unlisted = started(context_policy=KEEP, listed=False)
    given(unlisted, *STOPPED).when(delete).then(deleted, ConversationDeleted())
    given(unlisted, *STOPPED, appended("msg_3", 3, "msg_a")).when(delete).then(
        deleted,
        ItemRetracted(item_id="msg_q", branch=0, depth=1),
        ItemRetracted(item_id="msg_a", branch=0, depth=2),
    )


def test_a_request_retracts_the_answer_that_it_replaces() -> None:
    second = RequestReply(
        response_id="resp_2",
        model="m",
        parameters=b"{}",
        input=(),
        shown=SHOWN,
        expected_head="msg_a",
        retracts=("msg_a",),
    )
    requested = ReplyRequested(response_id="resp_2", model="m", parameters=b"{}", input=(), shown=SHOWN)
    retracted = ItemRetracted(item_id="msg_a", branch=0, depth=2)
    past = (started(context_policy=KEEP), *STOPPED)
    given(*past).when(second).then(retracted, requested)
    given(*past, retracted).when(second).then(requested)
    given(*past, appended("msg_3", 3, "msg_a")).when(second).refused(HeadHasMoved)


def test_kept_items_join_where_the_reply_was_requested() -> None:
    running = (
        started(context_policy=KEEP),
        appended("m1", 1, None),
        appended("m2", 2, "m1"),
        REQUESTED,
        HeadMoved(item_id="m1", depth=1, path=(PathBranch(0, 1, 2),)),
    )
    leaf = (PathBranch(0, 2, 4),)
    question = appended("msg_q", 3, "m2", branch=6, leaves=leaf, response_id="resp_1", aside=True)
    interrupted = ReplyInterrupted(response_id="resp_1", code="interrupted", input_ids=("msg_q",), delta_lengths=(1,))
    given(*running).when(InterruptReply(code="interrupted", **FACTS)).then(question, interrupted)
