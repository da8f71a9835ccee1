"""The fields of a chat completion and of the chunks of its stream. A field that is UNSET is left out.

Shapes: `openai/types/chat/chat_completion.py` and `chat_completion_chunk.py` of the official SDK. `reasoning_content`
is not in the SDK, but other providers send it, and many clients read it.
"""

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "function_call"]


class CalledFunction(Struct, frozen=True):
    name: str
    arguments: str


class CalledCustomTool(Struct, frozen=True):
    name: str
    input: str


class ChatToolCall(Struct, frozen=True, kw_only=True):
    """`type`: `function` or `custom`, which names the field that is set."""

    id: str
    type: Literal["function", "custom"]
    function: CalledFunction | UnsetType = UNSET
    custom: CalledCustomTool | UnsetType = UNSET


class UrlCitation(Struct, frozen=True, kw_only=True):
    """A source of the text from `start_index` to `end_index`."""

    start_index: int
    end_index: int
    title: str
    url: str


class ChatAnnotation(Struct, frozen=True, tag_field="type", tag="url_citation"):
    url_citation: UrlCitation


class ChatAnswer(Struct, frozen=True, kw_only=True):
    """The answer as a message. `content` is null if there is a refusal or a call, and no text."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: str | None
    annotations: list[ChatAnnotation]
    tool_calls: list[ChatToolCall] | UnsetType = UNSET
    function_call: CalledFunction | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET


class ChatChoice(Struct, frozen=True, kw_only=True):
    index: int = 0
    message: ChatAnswer
    logprobs: None = None
    finish_reason: FinishReason


class PromptTokensDetails(Struct, frozen=True, kw_only=True):
    cached_tokens: int
    cache_write_tokens: int
    audio_tokens: int = 0


class CompletionTokensDetails(Struct, frozen=True, kw_only=True):
    reasoning_tokens: int
    audio_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


class ChatUsage(Struct, frozen=True, kw_only=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class ChatCompletion(Struct, frozen=True, kw_only=True, tag_field="object", tag="chat.completion"):
    """A chat completion. `choices` has one element; none if the reply waits, still runs or has failed."""

    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: ChatUsage | None
    service_tier: str | None
    system_fingerprint: None = None
    metadata: dict[str, str]


class ChunkChoice(Struct, frozen=True, kw_only=True):
    """`delta`: the next piece of the answer: `role`, `content`, `refusal`, `reasoning_content`, `tool_calls`, `function_call` or `annotations`."""

    index: int = 0
    delta: dict[str, Any]
    logprobs: None = None
    finish_reason: FinishReason | None = None


class ChatCompletionChunk(Struct, frozen=True, kw_only=True, tag_field="object", tag="chat.completion.chunk"):
    """A chunk of a streamed chat completion. With `stream_options.include_usage` the last chunk has the usage and no choices."""

    id: str
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: ChatUsage | None | UnsetType = UNSET
    service_tier: str | None | UnsetType = UNSET
    system_fingerprint: None = None
