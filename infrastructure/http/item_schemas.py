"""Schemas of items, for the OpenAPI document only. Every item may have further fields."""

from typing import Annotated, Any, Final, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, RootModel
from pydantic_core import CoreSchema, core_schema

Role = Literal["user", "assistant", "system", "developer"]


class OpenModel(BaseModel):
    """An object that may have further fields."""

    model_config = ConfigDict(extra="allow")


class Siblings(BaseModel):
    """The item's place among the items with the same parent."""

    index: int = Field(description="The place in the order in which they were added, from 0.")
    count: int


class StoredItem(OpenModel):
    """An item that the store returns. It has `created_at`, `author`, `model` and `siblings` only in a list of a conversation's items, and when it is read alone."""

    id: str
    created_at: int | None = Field(None, description="Seconds since 1970, UTC.")
    author: str | None = Field(None, description="Who added the item, or asked for the reply that made it.")
    model: str | None = Field(None, description="The model that made the item. Absent if no model did.")
    siblings: Siblings | None = Field(None, description="Absent if the item has no siblings.")


class TextPart(OpenModel):
    """A part with text. An `output_text` also has `annotations`."""

    type: Literal["input_text", "output_text", "text", "summary_text", "reasoning_text"]
    text: str
    annotations: list[Any] | None = None


class OtherPart(OpenModel):
    """A part of another type, such as `refusal`, `input_image` or `input_file`."""

    type: str


class Message(StoredItem):
    """A message, with its content as parts."""

    type: Literal["message"]
    role: Role
    status: str
    content: list[TextPart | OtherPart]


class FunctionCall(StoredItem):
    """A model's call of a function. `arguments` is JSON text."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    status: Any


class FunctionCallOutput(StoredItem):
    """What the function answered."""

    type: Literal["function_call_output"]
    call_id: str
    output: str | list[Any]
    status: Any


class OtherItem(OpenModel):
    """An item of another type, as it was stored, with its id."""

    id: str
    type: str


class Item(RootModel[Message | FunctionCall | FunctionCallOutput | OtherItem]):
    """An item of the Responses API."""


class ItemList(BaseModel):
    """A page of items."""

    object: Literal["list"]
    data: list[Item]
    first_id: str | None
    last_id: str | None
    has_more: bool


ItemJson = Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema={"$ref": "#/components/schemas/Item"})]
"""As JSON text, for a field of a msgspec struct."""

EncodableItem = Annotated[Any, msgspec.Meta(extra_json_schema={"$ref": "#/components/schemas/Item"})]
"""As JSON text, or as a value that msgspec encodes."""


class InputMessage(OpenModel):
    """A message. A `content` that is a string becomes one part."""

    type: Literal["message"] = "message"
    role: Role
    content: str | list[TextPart | OtherPart]


class InputFunctionCall(OpenModel):
    """A model's call of a function. `arguments` is JSON text."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str


class InputCustomToolCall(OpenModel):
    """A model's call of a custom tool."""

    type: Literal["custom_tool_call"]
    call_id: str
    name: str
    input: str


class InputToolOutput(OpenModel):
    """What a function or a custom tool answered."""

    type: Literal["function_call_output", "custom_tool_call_output"]
    call_id: str
    output: str | list[Any]


_CHECKED_TYPES: Final = (
    "message",
    "function_call",
    "function_call_output",
    "custom_tool_call",
    "custom_tool_call_output",
)


class OtherInputItem(OpenModel):
    """An item of any other type. It is returned as it was sent, with three exceptions. Its `id` is the store's, and so is a link to another item by its `id`, if that item is found. Images and files become a `file_id`. A call without a `call_id` gets one."""

    type: str = Field(min_length=1, max_length=64, json_schema_extra={"not": {"enum": [*_CHECKED_TYPES]}})


class InputItem(RootModel[InputMessage | InputFunctionCall | InputCustomToolCall | InputToolOutput | OtherInputItem]):
    """An item of the Responses API, as clients send it."""


class DescribedAs:
    """Annotates a field: pydantic accepts any value, and the OpenAPI document names the model."""

    def __init__(self, model: type[BaseModel]) -> None:
        self._model = model

    def __get_pydantic_core_schema__(self, _: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.json_or_python_schema(handler(self._model), core_schema.any_schema())


InputItemJson = Annotated[Any, DescribedAs(InputItem)]
