"""Tools and the answer's format in a Chat Completions request."""

from collections.abc import Collection, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from commands.response_body import FUNCTION_NAME
from infrastructure.http.errors import ApiError

ToolName = tuple[str, str]
"""Type and name."""

_Name = Annotated[str, Field(pattern=FUNCTION_NAME)]


class OpenBody(BaseModel):
    """An object whose known fields are checked. Other fields are sent to the provider as they came."""

    model_config = ConfigDict(strict=True, extra="allow")


class Function(OpenBody):
    name: _Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class GrammarText(OpenBody):
    syntax: Literal["lark", "regex"]
    definition: str


class CustomFormat(OpenBody):
    type: Literal["text", "grammar"]
    grammar: GrammarText | None = None


class Custom(OpenBody):
    name: _Name
    description: str | None = None
    format: CustomFormat | None = None


class Tool(OpenBody):
    type: Literal["function", "custom"]
    function: Function | None = None
    custom: Custom | None = None

    @property
    def tool_name(self) -> ToolName:
        return self.type, getattr(self, self.type).name


class JsonSchema(OpenBody):
    name: _Name
    description: str | None = None
    json_schema: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(OpenBody):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


def check_tools(tools: Sequence[Tool], choice: Any) -> None:
    """Raises ApiError (400) for an incomplete tool, or a `tool_choice` that is malformed or does not fit the tools."""
    for index, tool in enumerate(tools):
        if getattr(tool, tool.type) is None:
            raise invalid_value(f"tools[{index}].{tool.type}", "it must be an object with the tool's `name`")
    names = {tool.tool_name for tool in tools}
    if choice == "required" and not names:
        raise invalid_value("tool_choice", "`required` needs `tools`")
    if not isinstance(choice, dict):
        return
    if choice.get("type") != "allowed_tools":
        _check_choice(choice, names, "tool_choice")
        return
    allowed = choice.get("allowed_tools")
    if not isinstance(allowed, dict) or not isinstance(allowed.get("tools"), list):
        raise invalid_value("tool_choice.allowed_tools", "it must be an object with a `mode` and a list of `tools`")
    if allowed.get("mode") not in ("auto", "required"):
        raise invalid_value("tool_choice.allowed_tools.mode", "it must be auto or required")
    for index, tool in enumerate(allowed["tools"]):
        _check_choice(tool, names, f"tool_choice.allowed_tools.tools[{index}]")


def _check_choice(choice: Any, names: Collection[ToolName], param: str) -> None:
    """Raises ApiError (400) unless `choice` is `{"type": T, T: {"name": N}}`, with (T, N) in `names`."""
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind not in ("function", "custom"):
        raise invalid_value(f"{param}.type", "it must be function or custom")
    named = choice.get(kind)
    name = named.get("name") if isinstance(named, dict) else None
    if not isinstance(name, str) or (kind, name) not in names:
        raise invalid_value(f"{param}.{kind}.name", "`tools` has no tool of this type and name")


def invalid_value(param: str, problem: str) -> ApiError:
    return ApiError(400, f"Invalid `{param}`: {problem}.", code="invalid_value", param=param)
