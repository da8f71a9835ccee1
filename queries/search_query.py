"""The parameters of GET /v1/search."""

from typing import Literal

from pydantic import Field, field_validator

from infrastructure.http.path_ids import check_id
from infrastructure.http.query_parameters import QueryParameters
from infrastructure.ids import CONVERSATION
from queries.search_terms import MAX_LENGTH

MAX_LIMIT = 100
_MAX_SECONDS = 2**32

Role = Literal["user", "assistant", "system", "developer"]


class SearchQuery(QueryParameters):
    """What to search for. A `conversation` that is not an id is a 400."""

    q: str = Field(
        description=f'Words that must all be in the message; `"a phrase"`, `-without`, `prefix*`. At most {MAX_LENGTH} characters.'
    )
    role: Role | None = Field(None, description="Only messages of this role.")
    conversation: str | None = Field(None, description="Only messages of this conversation.")
    author: str | None = Field(None, description="Only messages that this subject sent or asked for.")
    model: str | None = Field(None, description="Only messages that this model wrote.")
    since: int | None = Field(
        None, ge=0, le=_MAX_SECONDS, description="Only messages from this time on: seconds since 1970, UTC."
    )
    until: int | None = Field(
        None, ge=0, le=_MAX_SECONDS, description="Only messages before this time: seconds since 1970, UTC."
    )
    limit: int = Field(20, ge=1, le=MAX_LIMIT)
    after: str | None = Field(None, description="`next_cursor` of the page before.")

    @field_validator("conversation")
    @classmethod
    def _is_conversation_id(cls, conversation_id: str | None) -> str | None:
        if conversation_id is not None:
            check_id(conversation_id, CONVERSATION, "conversation")
        return conversation_id
