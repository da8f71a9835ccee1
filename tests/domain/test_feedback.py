"""The rules for feedback."""

from domain.commands import GiveFeedback, WithdrawFeedback
from domain.errors import FeedbackNotFound, ItemNotFound
from domain.events import FeedbackGiven, FeedbackWithdrawn
from tests.domain.specification import appended, given, started

BEFORE = (started(), appended("msg_1", 1, None))


def give(feedback_id: str, rating: int, known_id: str | None = None, item_id: str = "msg_1") -> GiveFeedback:
    return GiveFeedback(feedback_id=feedback_id, known_id=known_id, by="ann", item_id=item_id, rating=rating)


def fed_back(feedback_id: str, rating: int, previous: int | None = None) -> FeedbackGiven:
    return FeedbackGiven(feedback_id=feedback_id, by="ann", item_id="msg_1", rating=rating, previous=previous)


WITHDRAWN = FeedbackWithdrawn(feedback_id="feedback_1", by="ann", item_id="msg_1", rating=1)


def test_feedback_is_given_changed_and_withdrawn_under_one_id() -> None:
    given(*BEFORE).when(give("feedback_1", 1)).then(fed_back("feedback_1", 1))
    given(*BEFORE).when(give("feedback_1", 1, item_id="msg_2")).refused(ItemNotFound)
    before = (*BEFORE, fed_back("feedback_1", 1))
    given(*before).when(give("feedback_2", -1, "feedback_1")).then(fed_back("feedback_1", -1, 1))
    given(*before).when(give("feedback_2", 1, "feedback_1")).then()
    withdraw = WithdrawFeedback(by="ann", item_id="msg_1")
    given(*before).when(withdraw).then(WITHDRAWN)
    given(*before, WITHDRAWN).when(withdraw).refused(FeedbackNotFound)


def test_after_a_withdrawal_feedback_gets_a_new_id() -> None:
    before = (*BEFORE, fed_back("feedback_1", 1), WITHDRAWN)
    given(*before).when(give("feedback_2", 1, "feedback_1")).then(fed_back("feedback_2", 1))


def test_the_same_feedback_is_recorded_again_if_its_id_is_unknown() -> None:
    given(*BEFORE, fed_back("feedback_1", 1)).when(give("feedback_2", 1)).then(fed_back("feedback_1", 1, 1))
