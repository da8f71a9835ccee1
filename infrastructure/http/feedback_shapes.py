"""The JSON of feedback."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec
from msgspec import Struct

from infrastructure.http.shapes import ConversationId, Seconds


class Feedback(Struct, frozen=True, kw_only=True, tag_field="object", tag="feedback"):
    """What one subject (`by`) thinks of an item or a response: one of `item` and `response` is null.

    `rating`: 1 or -1. `comment` is null if there is none, or if the item or the response is deleted. `created_at`: when
    the feedback was given first.
    """

    id: str
    conversation: ConversationId
    item: str | None
    response: str | None
    rating: Annotated[int, msgspec.Meta(extra_json_schema={"enum": [1, -1]})]
    labels: Sequence[str]
    comment: str | None
    by: str
    created_at: Seconds


class FeedbackCounts(Struct, frozen=True, kw_only=True):
    """How many feedback objects match the filters, on all pages. `labels`: how many have each label, for the 100 most frequent labels."""

    positive: int
    negative: int
    labels: Mapping[str, int]


class FeedbackList(Struct, frozen=True, kw_only=True, tag_field="object", tag="list"):
    """A page of feedback."""

    data: list[Feedback]
    first_id: str | None
    last_id: str | None
    has_more: bool
    counts: FeedbackCounts


class FeedbackDeleted(Struct, frozen=True, kw_only=True, tag_field="object", tag="feedback.deleted"):
    """The receipt of a withdrawal."""

    item: str | None
    response: str | None
    deleted: bool
