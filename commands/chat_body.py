"""The body of a Chat Completions request.

Unknown parameters are recorded, and sent unchanged to a provider of Chat Completions.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, PrivateAttr, model_validator

from commands.bodies import Metadata
from commands.chat_message_checks import check_messages
from commands.chat_parameters import check_expressible, provider_parameters, response_parameters
from commands.chat_tools import Function, OpenBody, ResponseFormat, Tool, check_tools, invalid_value
from commands.request_options import Moderation, PromptCacheOptions, ServiceTier, ShortText
from commands.response_body import MAX_TOOLS, ConversationRef, CreateResponse, Name, Penalty
from commands.response_schemas import RequestSchema, check_schemas
from context.rendering import uses_responses_api
from context.transcripts.chat_messages import Json, custom_calls, items_of
from context.transcripts.known_messages import KnownMessages, SentMessages, sent_messages
from infrastructure.http.body import validate
from infrastructure.http.errors import ApiError
from infrastructure.http.item_schemas import DescribedAs, OpenModel
from infrastructure.settings import ChatCompletionsStore

MAX_CHAT_BYTES = 32 * 1024 * 1024
MAX_MESSAGES = 5_000
MAX_PARAMETERS_BYTES = 1024 * 1024
"""As JSON text. The parameters are recorded with each reply."""

MAX_STOPS = 64
MAX_INT64 = 2**63 - 1

_OF_RESPONSES = ("background", "context_management", "input", "instructions", "on_busy", "previous_response_id")
"""Parameters of the Responses API that a provider of Chat Completions does not have."""

Tokens = Annotated[int, Field(ge=1, le=1_000_000)]
Logit = Annotated[float, Field(ge=-100, le=100)]


class ChatMessage(OpenModel):
    """A message of the Chat Completions API. `commands/chat_message_checks.py` checks it."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None


class StreamOptions(OpenBody):
    include_obfuscation: bool | None = None
    include_usage: bool | None = None


class Prediction(OpenBody):
    type: Literal["content"]
    content: str | list[dict[str, Any]]


class CreateChatCompletion(BaseModel):
    """A Chat Completions request. Parameters that the store does not know are sent to a provider of Chat Completions. `docs/clients.md` says what the store does with each parameter."""

    model_config = ConfigDict(
        strict=True,
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "model": "gpt-5-mini",
                    "messages": [{"role": "user", "content": "When is the best time to visit Oslo?"}],
                }
            ]
        },
    )

    messages: Annotated[list[Annotated[Any, DescribedAs(ChatMessage)]], Field(min_length=1, max_length=MAX_MESSAGES)]
    model: Name | None = None
    audio: dict[str, Any] | None = None
    conversation: str | ConversationRef | None = None
    frequency_penalty: Penalty | None = None
    function_call: Literal["none", "auto"] | dict[str, Any] | None = None
    functions: Annotated[list[Function], Field(max_length=MAX_TOOLS)] | None = None
    logit_bias: dict[str, Logit] | None = None
    logprobs: bool | None = None
    max_completion_tokens: Tokens | None = None
    max_tokens: Tokens | None = None
    metadata: Metadata | None = None
    modalities: list[Literal["text", "audio"]] | None = None
    moderation: Moderation | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    parallel_tool_calls: bool | None = None
    prediction: Prediction | None = None
    presence_penalty: Penalty | None = None
    prompt_cache_key: ShortText | None = None
    prompt_cache_options: PromptCacheOptions | None = None
    prompt_cache_retention: ShortText | None = None
    reasoning_effort: ShortText | None = None
    response_format: ResponseFormat | None = None
    safety_identifier: ShortText | None = None
    seed: Annotated[int, Field(ge=-MAX_INT64 - 1, le=MAX_INT64)] | None = None
    service_tier: ServiceTier | None = None
    stop: str | Annotated[list[str], Field(max_length=MAX_STOPS)] | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    user: ShortText | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    web_search_options: dict[str, Any] | None = None

    _sent: Json = PrivateAttr()
    _sent_messages: SentMessages | None = PrivateAttr(None)

    @model_validator(mode="wrap")
    @classmethod
    def _keep_as_sent(
        cls, value: Any, handler: ModelWrapValidatorHandler["CreateChatCompletion"]
    ) -> "CreateChatCompletion":
        """Keeps the body as it was sent. A field may differ from the body. For example, 1 becomes 1.0."""
        body = handler(value)
        body._sent = value  # noqa: SLF001 - a method of the same class
        return body

    @property
    def conversation_id(self) -> str | None:
        return self.conversation.id if isinstance(self.conversation, ConversationRef) else self.conversation

    @property
    def sent_messages(self) -> SentMessages:
        """The messages, with the digest of each."""
        if self._sent_messages is None:
            self._sent_messages = sent_messages(self.messages)
        return self._sent_messages

    @property
    def includes_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def as_sent(self) -> Json:
        return self._sent

    def recorded_parameters(self) -> dict[str, Any]:
        """The parameters to record. `chat` has the unchanged parameters for a provider of Chat Completions."""
        return {**response_parameters(self._sent), "chat": provider_parameters(self._sent)}

    def as_response_request(self, *, stored: bool) -> CreateResponse:
        """Raises ApiError (400)."""
        check_expressible(self._sent, "a request with `conversation` becomes one of the Responses API")
        if self.logprobs:
            message = "`logprobs` cannot be used with `conversation`: the store does not keep log probabilities."
            raise ApiError(400, message, code="unsupported_parameter", param="logprobs")
        leading = next(
            (i for i, message in enumerate(self.messages) if not _is_instructions(message)), len(self.messages)
        )
        given, custom = self.messages[leading:], custom_calls(self.messages)
        parameters = response_parameters(self._sent)
        if leading:
            parameters["instructions"] = "\n\n".join(map(_text, self.messages[:leading]))
        request = validate(
            CreateResponse,
            {
                **parameters,
                "model": self.model,
                "conversation": self.conversation_id,
                "stream": self.stream,
                "store": stored,
                "input": [item for message in given for item in items_of(message, custom)],
            },
        )
        request.check()
        request.is_chat_completion = True
        return request

    def check(self, renderer: int, known_messages: KnownMessages) -> None:
        """Raises ApiError (400, 413). `known_messages`: messages that were checked before."""
        self._sent_messages = sent_messages(self.messages, known_messages)
        check_messages(self.messages, self.sent_messages.are_known, are_all=self.conversation is None)
        for name in _OF_RESPONSES:
            if self._sent.get(name) is not None:
                message = f"Unknown parameter: `{name}`. POST /v1/responses has it."
                raise ApiError(400, message, code="unknown_parameter", param=name)
        self._check_unsupported()
        self._check_combinations()
        self._check_tools()
        if len(msgspec.json.encode(provider_parameters(self._sent))) > MAX_PARAMETERS_BYTES:
            message = f"The parameters without `messages` are larger than {MAX_PARAMETERS_BYTES} bytes."
            raise ApiError(413, message, code="request_too_large")
        check_schemas(self._schemas())
        if uses_responses_api(renderer):
            check_expressible(self._sent, "the model provider has the Responses API")

    def _check_unsupported(self) -> None:
        policy = self.moderation.policy if self.moderation else None
        for is_asked, param, problem in (
            ((self.n or 1) > 1, "n", "a conversation can continue from only one answer"),
            ("audio" in (self.modalities or ()), "modalities", "answers are text"),
            (
                self.prompt_cache_options and self.prompt_cache_options.prewarm,
                "prompt_cache_options.prewarm",
                "every request gets an answer",
            ),
            *(
                (
                    (side := getattr(policy, name, None)) is not None and side.mode == "block",
                    f"moderation.policy.{name}.mode",
                    "the store does not block what is asked or said",
                )
                for name in ("input", "output")
            ),
        ):
            if is_asked:
                message = f"This value of `{param}` is not supported: {problem}."
                raise ApiError(400, message, code="unsupported_parameter", param=param)

    def _check_combinations(self) -> None:
        for first, second in (
            ("max_tokens", "max_completion_tokens"),
            ("functions", "tools"),
            ("function_call", "tool_choice"),
        ):
            if getattr(self, first) is not None and getattr(self, second) is not None:
                message = f"`{first}` and `{second}` cannot be used together. `{first}` is the older one."
                raise ApiError(400, message, code="mutually_exclusive_parameters", param=first)
        if self.top_logprobs and not self.logprobs:
            raise invalid_value("top_logprobs", "it needs `logprobs: true`")

    def _check_tools(self) -> None:
        check_tools(self.tools or (), self.tool_choice)
        if isinstance(self.function_call, dict):
            names = {function.name for function in self.functions or ()}
            if self.function_call.get("name") not in names:
                raise invalid_value("function_call.name", "`functions` has no function with this name")
        answer_format = self.response_format
        if answer_format and answer_format.type == "json_schema" and answer_format.json_schema is None:
            raise invalid_value("response_format.json_schema", "it must be an object with the schema's `name`")

    def _schemas(self) -> Iterator[RequestSchema]:
        for index, tool in enumerate(self.tools or ()):
            if tool.function is not None and tool.function.parameters is not None:
                param = f"tools[{index}].function.parameters"
                yield RequestSchema(tool.function.parameters, param, tool.function.name, "invalid_function_parameters")
        for index, function in enumerate(self.functions or ()):
            if function.parameters is not None:
                param = f"functions[{index}].parameters"
                yield RequestSchema(function.parameters, param, function.name, "invalid_function_parameters")
        schema = self.response_format.json_schema if self.response_format else None
        if schema is not None and schema.json_schema is not None:
            yield RequestSchema(
                schema.json_schema, "response_format.json_schema.schema", schema.name, "invalid_json_schema"
            )


def is_stored(body: Any, policy: ChatCompletionsStore) -> bool:
    """Whether the reply is stored. `body`: as it was sent. `policy`: the setting CHAT_COMPLETIONS_STORE."""
    store = body.get("store") if isinstance(body, dict) else None
    if policy == "never":
        return False
    return policy == "always" if store is None else bool(store)


def _is_instructions(message: Json) -> bool:
    return message["role"] in ("system", "developer")


def _text(message: Json) -> str:
    content = message["content"]
    return (
        content if isinstance(content, str) else "\n".join(part["text"] for part in content if part["type"] == "text")
    )
