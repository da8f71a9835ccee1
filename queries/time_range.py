"""The parameters `since` and `until` of lists: whole seconds since 1970, UTC."""

from typing import Annotated

from pydantic import Field

MAX_SECONDS = 253_402_300_799
"""The last second of the year 9999."""

Since = Annotated[
    int | None,
    Field(ge=0, le=MAX_SECONDS, description="Only what is not older than this: seconds since 1970, UTC."),
]
Until = Annotated[
    int | None,
    Field(ge=0, le=MAX_SECONDS, description="Only what is older than this: seconds since 1970, UTC."),
]
