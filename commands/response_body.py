"""The request of the Responses API: what of it is kept with a reply, and what is refused by name. Shapes: `openai_surface.md`."""

import asyncio
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Annotated, Any, Literal

import msgspec
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # it brings no types
from jsonschema.exceptions import SchemaError  # type: ignore[import-untyped]  # it brings no types
from msgspec import Struct
from pydantic import Field, StringConstraints

from commands.bodies import Body, Instructions, Metadata, new_items
from domain.commands import NewItem
from domain.items import as_output
from infrastructure.http.errors import ApiError

MAX_INPUT_ITEMS = 200
MAX_REQUEST_BYTES = 4 * 1024 * 1024
"""Bytes. A response's document in the views holds its input, and may not pass 16 MB."""

MAX_INPUT_BYTES = 2 * MAX_REQUEST_BYTES
"""Bytes, with what is taken up of replies that did not complete: they may follow one another."""

MAX_TOOLS = 128
MAX_SCHEMAS_BYTES = 256 * 1024
"""Bytes of all the JSON Schemas of a request, as JSON text: checking so much takes some seconds, in a thread of its own."""

KEPT_SCHEMAS = 256
"""How many are known again: who calls tools sends the same ones with every request."""

FUNCTION_NAME = r"^[a-zA-Z0-9_-]{1,64}$"

_KEPT = (
    "background",
    "context_management",
    "include",
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "metadata",
    "parallel_tool_calls",
    "previous_response_id",
    "reasoning",
    "service_tier",
    "store",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_p",
    "truncation",
)
"""What is on record with a reply, as the caller set it."""

_HARMLESS: dict[str, tuple[Any, ...]] = {"prompt": (), "top_logprobs": (0,)}
"""Parameters that nothing here acts on, and the values of each that ask for nothing; null always does."""

_CHECKING = ThreadPoolExecutor(1, "schemas")

Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Include = Literal[
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
]


class _Schema(Struct):
    """A JSON Schema in a request; `name`: what it is the schema of."""

    schema: Any
    param: str
    name: str
    code: str


class ConversationRef(Body):
    id: str


class Compaction(Body):
    type: Literal["compaction"]
    compact_threshold: Annotated[int, Field(ge=1, le=2**31)] | None = None


class CreateResponse(Body):
    """What can not be honoured is refused by name, not ignored."""

    input: Annotated[str | list[Any], Field(description="Text, or items of the Responses API.")] | None = None
    conversation: str | ConversationRef | None = None
    previous_response_id: str | None = None
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
    text: dict[str, Any] | None = None
    reasoning: dict[str, Any] | None = None
    context_management: Annotated[list[Compaction], Field(max_length=1)] | None = None
    include: list[Include] | None = None

    prompt: Any = None
    top_logprobs: Any = None
    stream_options: dict[str, Any] | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    user: str | None = None

    @property
    def conversation_id(self) -> str | None:
        return self.conversation.id if isinstance(self.conversation, ConversationRef) else self.conversation

    @property
    def stored(self) -> bool:
        return self.store is not False

    def parameters(self) -> dict[str, Any]:
        """What the caller set of what a reply goes by."""
        given = self.model_dump(mode="json", include=set(_KEPT), exclude_none=True)
        return {name: given[name] for name in _KEPT if name in given}

    def items(self) -> tuple[NewItem, ...]:
        """The input, as items with ids of their own. Raises ApiError."""
        if isinstance(self.input, str):
            return new_items([{"type": "message", "role": "user", "content": self.input}], "input")
        goes_on = self.conversation is not None or self.previous_response_id is not None
        if self.input is None and not goes_on:
            raise ApiError(400, "`input` is missing.", code="missing_required_parameter", param="input")
        given = self.input or []
        if len(given) > MAX_INPUT_ITEMS:
            raise ApiError(400, f"`input` has more than {MAX_INPUT_ITEMS} items.", code="invalid_value", param="input")
        if not given and not goes_on:
            raise ApiError(400, "`input` is empty.", code="invalid_value", param="input")
        items = new_items(given, "input")
        # As they are given back: that may be longer than they came.
        if sum(len(as_output(new.item_id, new.item)) for new in items) > MAX_REQUEST_BYTES:
            raise ApiError(
                413, f"`input` is larger than {MAX_REQUEST_BYTES} bytes.", code="request_too_large", param="input"
            )
        return items

    async def check(self) -> None:
        """Raises ApiError (400) for what no single field shows to be wrong."""
        if self.conversation is not None and self.previous_response_id is not None:
            raise ApiError(
                400,
                "`previous_response_id` and `conversation` exclude each other.",
                code="mutually_exclusive_parameters",
                param="previous_response_id",
            )
        if not self.stored and (self.background or self.conversation is not None):
            other = "background" if self.background else "conversation"
            raise ApiError(
                400,
                f"A response with `{other}` is stored: `store` can not be false.",
                code="mutually_exclusive_parameters",
                param="store",
            )
        for name, harmless in _HARMLESS.items():
            value = getattr(self, name)
            if value is not None and value not in harmless:
                raise _unsupported(name)
        for index, tool in enumerate(self.tools or ()):
            _check_tool(tool, f"tools[{index}]")
        self._check_tool_choice()
        self._check_text()
        if schemas := list(self._schemas()):
            await asyncio.get_running_loop().run_in_executor(_CHECKING, _check_schemas, schemas)

    def _check_tool_choice(self) -> None:
        choice = self.tool_choice
        names = [tool.get("name") for tool in self.tools or ()]  # of whatever type
        if choice == "required" and not self.tools:
            raise _invalid("tool_choice", "`required` needs `tools`")
        if isinstance(choice, dict):
            if not isinstance(choice.get("type"), str):
                raise _invalid("tool_choice.type", "it is a string")
            if choice["type"] in ("function", "custom") and choice.get("name") not in names:
                raise _invalid("tool_choice.name", "no tool of this name is in `tools`")

    def _check_text(self) -> None:
        form = (self.text or {}).get("format")
        if form is None:
            return
        if not isinstance(form, dict) or form.get("type") not in ("text", "json_object", "json_schema"):
            raise _invalid("text.format.type", "one of text, json_object, json_schema")
        if form["type"] == "json_schema":
            if not isinstance(form.get("name"), str):
                raise _invalid("text.format.name", "it is a string")

    def _schemas(self) -> Iterator[_Schema]:
        """Those of functions and of the answer, once the rest is checked."""
        for index, tool in enumerate(self.tools or ()):
            if tool["type"] == "function" and tool.get("parameters") is not None:
                param = f"tools[{index}].parameters"
                yield _Schema(tool["parameters"], param, tool["name"], "invalid_function_parameters")
        form = (self.text or {}).get("format") or {}
        if form.get("type") == "json_schema":
            yield _Schema(form.get("schema"), "text.format.schema", form["name"], "invalid_json_schema")


def _check_schemas(schemas: list[_Schema]) -> None:
    """Raises ApiError (400) where one is no JSON Schema of an object, or all are too large to be checked. Takes long."""
    size = 0
    for given in schemas:
        encoded = msgspec.json.encode(given.schema)
        size += len(encoded)
        if size > MAX_SCHEMAS_BYTES:
            problem = f"the schemas of a request have at most {MAX_SCHEMAS_BYTES} bytes"
        elif (flaw := _flaw(encoded)) is not None:
            problem = flaw
        else:
            continue
        message = f"Invalid schema for {given.name[:64]!r}: {problem}."
        raise ApiError(400, message, code=given.code, param=given.param)


@lru_cache(KEPT_SCHEMAS)
def _flaw(encoded: bytes) -> str | None:
    """What keeps a value, as JSON text, from being a JSON Schema of an object."""
    schema = msgspec.json.decode(encoded)
    if not isinstance(schema, dict):
        return "it is an object"
    try:
        Draft202012Validator.check_schema(schema)
    except (SchemaError, RecursionError, ValueError, TypeError, ArithmeticError) as error:
        where = ".".join(str(step)[:64] for step in getattr(error, "path", ()))
        return f"it is not valid at {where!r}" if where else "it is not valid"
    return None if schema.get("type", "object") == "object" else "its `type` must be 'object'"


def _check_tool(tool: dict[str, Any], param: str) -> None:
    if not isinstance(tool.get("type"), str):
        raise _invalid(f"{param}.type", "it is a string")
    if tool["type"] in ("function", "custom"):
        name = tool.get("name")
        if not isinstance(name, str) or re.fullmatch(FUNCTION_NAME, name) is None:
            raise _invalid(f"{param}.name", "letters, digits, - and _, at most 64 of them")
        if tool["type"] == "function" and not isinstance(tool.get("description", ""), str | None):
            raise _invalid(f"{param}.description", "it is a string")


def _invalid(param: str, what: str) -> ApiError:
    return ApiError(400, f"Invalid `{param}`: {what}.", code="invalid_value", param=param)


def _unsupported(param: str) -> ApiError:
    return ApiError(400, f"`{param}` with this value is not supported here.", code="unsupported_parameter", param=param)
