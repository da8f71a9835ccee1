"""The fields of a Response and of the events of its stream. A field that is UNSET is left out.

Shape: `openai/types/responses/response.py` of the official SDK, and `ResponseResource` of the Open Responses
specification.
"""

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from infrastructure.http.item_schemas import ItemJson

Status = Literal["queued", "in_progress", "completed", "failed", "cancelled", "incomplete"]


class ConversationReference(Struct, frozen=True):
    id: str


class ResponseError(Struct, frozen=True):
    """If the official API does not know the store's error code, `code` is `server_error` and `type` is the store's code. Otherwise `type` is null."""

    code: str
    message: str
    type: str | None = None
    param: str | None = None


class IncompleteDetails(Struct, frozen=True):
    """`reason`: `max_output_tokens`, `content_filter` or `interrupted`. `interrupted` means that the reply was cut off before its end."""

    reason: str


class InputTokensDetails(Struct, frozen=True):
    cached_tokens: int
    cache_write_tokens: int


class OutputTokensDetails(Struct, frozen=True):
    reasoning_tokens: int


class UsageObject(Struct, frozen=True):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseObject(Struct, frozen=True, kw_only=True, tag_field="object", tag="response"):
    """A Response. Times are in seconds since 1970. `cost_usd` and `shortened_from` are this store's own fields.

    `context_management` is an official parameter of requests that the official Response lacks.
    """

    id: str
    created_at: int
    completed_at: int | None
    status: Status
    model: str
    conversation: ConversationReference | None
    previous_response_id: str | None
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    usage: UsageObject | None
    cost_usd: float | None

    access_programs: dict[str, Any] | None
    background: bool
    background_options: dict[str, Any] | UnsetType = UNSET
    client_metadata: dict[str, Any] | UnsetType = UNSET
    context_management: list[dict[str, Any]] | None
    frequency_penalty: float
    image: dict[str, Any] | UnsetType = UNSET
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    moderation: None = None
    parallel_tool_calls: bool
    presence_penalty: float
    prompt: None = None
    prompt_cache_key: str | None
    prompt_cache_options: dict[str, Any] | UnsetType = UNSET
    prompt_cache_retention: str | None
    reasoning: dict[str, Any]
    safety_identifier: str | None
    service_tier: str
    store: bool
    stream_options: dict[str, Any] | UnsetType = UNSET
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["auto", "disabled"]
    user: str | None

    shortened_from: int | UnsetType = UNSET
    output: list[ItemJson]


class ResponseEvent(Struct, frozen=True, kw_only=True):
    """An event of a Response's stream, as the OpenAPI document shows it. `type` decides which of the other fields the event has.

    As in the OpenAI API, some types also have fields that are not listed here. `stream_events.py` makes the events.
    An event of the type `error` has `code`, `message` and `param`, and `response_id` if the response is on record.
    """

    type: str
    sequence_number: int
    response: ResponseObject | UnsetType = UNSET
    item: dict[str, Any] | UnsetType = UNSET
    item_id: str | UnsetType = UNSET
    output_index: int | UnsetType = UNSET
    content_index: int | UnsetType = UNSET
    summary_index: int | UnsetType = UNSET
    part: dict[str, Any] | UnsetType = UNSET
    delta: str | UnsetType = UNSET
    text: str | UnsetType = UNSET
    refusal: str | UnsetType = UNSET
    code: str | None | UnsetType = UNSET
    message: str | UnsetType = UNSET
    response_id: str | UnsetType = UNSET
