"""The body of a request for a reply.

A new parameter needs a field of `CreateResponse`, a name in `_STORED`, and a new renderer that sends it.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PrivateAttr, StringConstraints

from commands.bodies import Body, Instructions, Metadata, examples
from commands.given_items import GivenItem, given_items
from commands.other_apis import OTHER_NAMES
from commands.request_options import OptionsBody, ServiceTier, ShortText
from commands.response_schemas import RequestSchema
from domain.commands import NewItem
from domain.items import as_output
from infrastructure.http.errors import ApiError
from infrastructure.http.item_schemas import InputItemJson

MAX_INPUT_ITEMS = 1_000
MAX_REQUEST_BYTES = 4 * 1024 * 1024
"""The most bytes of a request without its images and files, and of its input in the form in which the store returns it.

A WebSocket message is counted with its images and files. MongoDB refuses documents above 16 MB.
"""

MAX_INPUT_BYTES = 2 * MAX_REQUEST_BYTES
"""The most bytes of these together: the input, the items that it refers to, and the items carried over from earlier
replies that did not join the conversation. Each such reply adds to them.
"""

MAX_TOOLS = 128
FUNCTION_NAME = r"^[a-zA-Z0-9_-]{1,64}$"

_STORED = (
    "access_programs",
    "background",
    "background_options",
    "client_metadata",
    "context_management",
    "frequency_penalty",
    "image",
    "include",
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "metadata",
    "moderation",
    "parallel_tool_calls",
    "presence_penalty",
    "previous_response_id",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "reasoning",
    "regenerate",
    "retry",
    "safety_identifier",
    "service_tier",
    "store",
    "stream_options",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_p",
    "truncation",
    "user",
)
"""The parameters that are recorded with a reply."""

_UNSUPPORTED: dict[str, tuple[Any, ...]] = {"prompt": (), "top_logprobs": (0,)}
"""Unsupported parameters, with the values that are accepted because they request nothing. Null is always accepted."""

Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Include = Literal[
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
]
LOGPROBS = "message.output_text.logprobs"
Penalty = Annotated[float, Field(ge=-2, le=2)]


class ConversationRef(Body):
    id: str


class Compaction(Body):
    type: Literal["compaction"]
    compact_threshold: Annotated[int, Field(ge=1, le=2**31)] | None = None


class CreateResponse(OptionsBody, Body):
    """The parameters of a reply. Unknown and unsupported parameters are refused. `docs/clients.md` says what the store does with each parameter."""

    OTHER_NAMES: ClassVar = OTHER_NAMES

    model_config = examples(
        {"model": "gpt-5-mini", "input": "When is the best time to visit Oslo?"},
        {"model": "gpt-5-mini", "conversation": "conv_019af3c5d2e07c31a7b1f0c1d2e3f405", "input": "And in winter?"},
    )

    input: Annotated[str | list[InputItemJson], Field(description="Text, or items of the Responses API.")] | None = None
    conversation: str | ConversationRef | None = None
    previous_response_id: str | None = None
    retry: Annotated[
        str | None,
        Field(
            description="The id of a failed or stopped response. The store tries it again at the same place, with the same input, model and parameters, except `stream` and `background`. "
            "Parameters that are given here take precedence."
        ),
    ] = None
    regenerate: Annotated[
        str | None,
        Field(
            description="The id of a response, or of an item of an answer. The model answers again after the same items, with the model and the parameters of that response. "
            "Parameters that are given here take precedence. The new answer becomes a sibling of the earlier one."
        ),
    ] = None
    model: Name | None = None
    instructions: Instructions | None = None
    stream: bool | None = None
    background: bool | None = None
    store: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    metadata: Metadata | None = None
    truncation: Literal["auto", "disabled"] | None = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: Annotated[int, Field(ge=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    context_management: Annotated[list[Compaction], Field(max_length=1)] | None = None
    include: list[Include] | None = None
    on_busy: Annotated[
        Literal["reject", "interrupt", "queue"] | None,
        Field(
            description="What happens while another reply runs or waits at the head of `conversation`. `reject` (default): this request is refused (409). `interrupt`: the running reply is stopped, and this one is next. `queue`: this reply waits for its turn."
        ),
    ] = None

    prompt: Any = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    service_tier: ServiceTier | None = None
    safety_identifier: ShortText | None = None
    prompt_cache_key: ShortText | None = None
    prompt_cache_retention: ShortText | None = None
    user: ShortText | None = None

    _is_chat_completion: bool = PrivateAttr(False)

    @property
    def is_chat_completion(self) -> bool:
        """Whether the request came through Chat Completions."""
        return self._is_chat_completion

    @is_chat_completion.setter
    def is_chat_completion(self, value: bool) -> None:
        self._is_chat_completion = value

    @property
    def conversation_id(self) -> str | None:
        return self.conversation.id if isinstance(self.conversation, ConversationRef) else self.conversation

    @property
    def may_wait(self) -> bool:
        return self.on_busy in ("interrupt", "queue")

    @property
    def earlier(self) -> Literal["retry", "regenerate"] | None:
        """`retry` or `regenerate`, if the request has one of them."""
        return "retry" if self.retry is not None else "regenerate" if self.regenerate is not None else None

    @property
    def stored(self) -> bool:
        return self.store is not False

    def parameters(self) -> dict[str, Any]:
        """The parameters to record. Allowed tools without a `mode` get `auto`, because providers need one."""
        parameters = self.model_dump(mode="json", include=set(_STORED), exclude_none=True)
        if isinstance(self.tool_choice, dict) and self.tool_choice.get("type") == "allowed_tools":
            parameters["tool_choice"] = {"mode": "auto", **self.tool_choice}
        return {name: parameters[name] for name in _STORED if name in parameters}

    def items(self) -> tuple[GivenItem, ...]:
        """Raises ApiError."""
        if isinstance(self.input, str):
            return given_items([{"type": "message", "role": "user", "content": self.input}])
        continues = self.conversation is not None or self.previous_response_id is not None
        if self.input is None and not continues:
            raise ApiError(400, "`input` is missing.", code="missing_required_parameter", param="input")
        input_items = self.input or []
        if len(input_items) > MAX_INPUT_ITEMS:
            raise ApiError(400, f"`input` has more than {MAX_INPUT_ITEMS} items.", code="invalid_value", param="input")
        if not input_items and not continues:
            raise ApiError(400, "`input` is empty.", code="invalid_value", param="input")
        items = given_items(input_items)
        # Items in the views may be larger than the sent items.
        if sum(len(as_output(new.item_id, new.item)) for new in items if isinstance(new, NewItem)) > MAX_REQUEST_BYTES:
            raise ApiError(
                413,
                f"`input` is larger than {MAX_REQUEST_BYTES} bytes in the form in which the store returns it.",
                code="request_too_large",
                param="input",
            )
        return items

    def check(self) -> None:
        """Raises ApiError (400). With `retry` or `regenerate`, the parameters are not checked yet: `merged` checks them."""
        self._check_target()
        if self.earlier is None:
            self.check_parameters()

    def _check_target(self) -> None:
        if self.conversation is not None and self.previous_response_id is not None:
            raise ApiError(
                400,
                "`previous_response_id` and `conversation` cannot be used together.",
                code="mutually_exclusive_parameters",
                param="previous_response_id",
            )
        if not self.stored and (self.background or self.conversation is not None):
            conflicting = "background" if self.background else "conversation"
            raise ApiError(
                400,
                f"A response with `{conflicting}` is always stored: `store` cannot be false.",
                code="mutually_exclusive_parameters",
                param="store",
            )
        if self.retry is not None:
            for name in ("input", "conversation", "previous_response_id", "regenerate"):
                if getattr(self, name) is not None:
                    raise _contradicts(
                        "retry",
                        name,
                        "the new reply takes its input and its place from the response that is tried again",
                    )
            if not self.stored:
                raise _contradicts("retry", "store", "the response that is tried again is stored", value="false")
            if self.may_wait:
                raise _contradicts("retry", "on_busy", "a retry does not wait for another reply", value=self.on_busy)
        if self.regenerate is not None:
            for name in ("input", "previous_response_id"):
                if getattr(self, name) is not None:
                    raise _contradicts(
                        "regenerate", name, "the model gets the items before the earlier answer, and no new input"
                    )
            if not self.stored:
                raise _contradicts(
                    "regenerate", "store", "the new answer becomes a sibling of the earlier one", value="false"
                )
            if self.on_busy == "interrupt":
                raise _contradicts(
                    "regenerate", "on_busy", "an answer on another branch does not interrupt a reply", value="interrupt"
                )
        if self.may_wait and self.conversation is None:
            raise _invalid(
                "on_busy", f"`{self.on_busy}` needs `conversation`. Without it, no reply waits for another one"
            )

    def check_parameters(self) -> None:
        """Raises ApiError (400)."""
        self.check_options()
        self._check_unsupported()
        for index, tool in enumerate(self.tools or ()):
            _check_tool(tool, f"tools[{index}]")
        self._check_tool_choice()
        self._check_text()

    def _check_unsupported(self) -> None:
        if isinstance(self.prompt, str):
            raise _invalid("prompt", "it cannot be a text. Use `input` for a text")
        for name, allowed in _UNSUPPORTED.items():
            value = getattr(self, name)
            if value is not None and value not in allowed:
                raise _unsupported(name)
        if self.include and LOGPROBS in self.include:
            raise _unsupported(f"include[{self.include.index(LOGPROBS)}]")

    def _check_tool_choice(self) -> None:
        choice = self.tool_choice
        names = [tool.get("name") for tool in self.tools or ()]  # of tools of any type
        if choice == "required" and not self.tools:
            raise _invalid("tool_choice", "`required` needs `tools`")
        if isinstance(choice, dict):
            _check_shape(choice, "function", "tool_choice")
            if not isinstance(choice.get("type"), str):
                raise _invalid("tool_choice.type", "it must be a string")
            if choice["type"] in ("function", "custom") and choice.get("name") not in names:
                raise _invalid("tool_choice.name", "`tools` has no tool with this name")

    def _check_text(self) -> None:
        answer_format = self.text.format if self.text else None
        if answer_format is None:
            return
        _check_shape(answer_format, "json_schema", "text.format")
        if answer_format.get("type") not in ("text", "json_object", "json_schema"):
            raise _invalid("text.format.type", "it must be text, json_object or json_schema")
        if answer_format["type"] == "json_schema":
            if not isinstance(answer_format.get("name"), str):
                raise _invalid("text.format.name", "it must be a string")

    def schemas(self) -> Iterator[RequestSchema]:
        """The JSON Schemas in the request. Call `check_parameters` first."""
        for index, tool in enumerate(self.tools or ()):
            if tool["type"] == "function" and tool.get("parameters") is not None:
                param = f"tools[{index}].parameters"
                yield RequestSchema(tool["parameters"], param, tool["name"], "invalid_function_parameters")
        answer_format = (self.text.format if self.text else None) or {}
        if answer_format.get("type") == "json_schema":
            schema, name = answer_format.get("schema"), answer_format["name"]
            yield RequestSchema(schema, "text.format.schema", name, "invalid_json_schema")


def is_stored(body: Any) -> bool:
    """Whether the reply is stored. `body` need not be validated."""
    return not isinstance(body, dict) or body.get("store") is not False


def _contradicts(earlier: str, param: str, reason: str, *, value: str | None = None) -> ApiError:
    """The error for two parameters that exclude each other. `value`: the value that is refused; None: all values."""
    refused = param if value is None else f"{param}: {value}"
    message = f"`{earlier}` and `{refused}` cannot be used together: {reason}."
    return ApiError(400, message, code="mutually_exclusive_parameters", param=param)


def _check_shape(value: dict[str, Any], nested: str, param: str) -> None:
    """Raises ApiError (400) for fields in an inner object, as in the Chat Completions API."""
    if isinstance(value.get(nested), dict):
        raise _invalid(f"{param}.{nested}", f"put its fields directly into `{param}`")


def _check_tool(tool: dict[str, Any], param: str) -> None:
    for nested in ("function", "custom"):
        _check_shape(tool, nested, param)
    if not isinstance(tool.get("type"), str):
        raise _invalid(f"{param}.type", "it must be a string")
    if tool["type"] in ("function", "custom"):
        name = tool.get("name")
        if not isinstance(name, str) or re.fullmatch(FUNCTION_NAME, name) is None:
            raise _invalid(f"{param}.name", "it must have 1 to 64 characters: letters, digits, - and _")
        if tool["type"] == "function" and not isinstance(tool.get("description", ""), str | None):
            raise _invalid(f"{param}.description", "it must be a string")


def _invalid(param: str, problem: str) -> ApiError:
    return ApiError(400, f"Invalid `{param}`: {problem}.", code="invalid_value", param=param)


def _unsupported(param: str) -> ApiError:
    return ApiError(400, f"This value of `{param}` is not supported.", code="unsupported_parameter", param=param)
