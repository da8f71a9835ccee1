"""The OpenAPI document of both APIs: its references, schemas, errors, streams and examples."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # it has no types

from scripts.openapi import rendered

DOCUMENT: dict[str, Any] = msgspec.json.decode(rendered())
SCHEMAS = DOCUMENT["components"]["schemas"]
OPERATIONS = {operation["operationId"]: operation for path in DOCUMENT["paths"].values() for operation in path.values()}


def resolved(described: Any) -> Any:
    """Follows references."""
    while "$ref" in described:
        value: Any = DOCUMENT
        for step in described["$ref"].removeprefix("#/").split("/"):
            value = value[step]
        described = value
    return described


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """All objects in the value, at any depth."""
    if isinstance(value, dict):
        yield value
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from objects(inner)


def test_every_reference_has_a_target_and_every_schema_is_referred_to() -> None:
    targets = {value["$ref"] for value in objects(DOCUMENT) if isinstance(value.get("$ref"), str)}
    for target in targets:
        resolved({"$ref": target})
    assert {f"#/components/schemas/{name}" for name in SCHEMAS} <= targets


def test_every_schema_is_a_json_schema_with_named_fields_or_alternatives() -> None:
    for name, schema in SCHEMAS.items():
        Draft202012Validator.check_schema(schema)
        assert schema.get("properties") or schema.get("anyOf"), name


def test_the_items_of_every_list_are_a_schema() -> None:
    """`items: false`, for a list of fixed length, is unknown to generators of clients."""
    lists = [value for value in objects(SCHEMAS) if value.get("type") == "array"]
    assert [value for value in lists if not isinstance(value.get("items"), dict)] == []


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_every_answer_and_every_error_of_an_operation_has_a_schema(name: str) -> None:
    responses = {status: resolved(answer) for status, answer in OPERATIONS[name]["responses"].items()}
    answer = responses.pop("200")
    if (part := responses.pop("206", None)) is not None:
        assert (
            part["content"]
            == answer["content"]
            == {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
        )
    unmodified = responses.pop("304", {})
    assert (
        part
        or "properties" in resolved(answer["content"]["application/json"]["schema"])
        or name
        in (
            "get_item",
            "restore_item",
            "revise_item",
        )
    )
    for error in responses.values():
        schema = error["content"]["application/json"]["schema"]
        assert {"$ref": "#/components/schemas/ErrorResponse"} in (schema, *schema.get("anyOf", ()))
        assert "X-Request-ID" in error["headers"]
    assert bool(unmodified) == ("ETag" in answer["headers"] and name.startswith(("get_", "list_")))


def test_known_operation_ids_are_in_the_document() -> None:
    names = {"create_response", "list_conversations", "add_items", "get_item", "import_conversations", "get_readiness"}
    assert names <= set(OPERATIONS)


def test_operations_that_can_stream_name_the_schema_of_their_events() -> None:
    streams = {
        name: content["itemSchema"]["properties"]["data"]["contentSchema"]["$ref"].rpartition("/")[2]
        for name, operation in OPERATIONS.items()
        if (content := operation["responses"]["200"]["content"].get("text/event-stream")) is not None
    }
    assert streams == {
        "create_response": "ResponseEvent",
        "get_response": "ResponseEvent",
        "create_chat_completion": "ChatCompletionChunk",
        "list_events": "LogEvent",
    }


def test_the_schema_of_an_import_describes_one_line() -> None:
    [(media_type, content)] = OPERATIONS["import_conversations"]["requestBody"]["content"].items()
    assert media_type == "application/x-ndjson"
    assert resolved(content["itemSchema"])["properties"].keys() >= {"items", "title"}


def test_parameters_with_brackets_in_their_names_are_described() -> None:
    of_list = {parameter["name"]: parameter for parameter in OPERATIONS["list_conversations"]["parameters"]}
    assert (of_list["metadata"]["style"], of_list["metadata"]["schema"]["type"]) == ("deepObject", "object")
    of_items = {parameter["name"]: parameter for parameter in OPERATIONS["list_items"]["parameters"]}
    assert of_items["include[]"]["schema"]["type"] == "array"


def test_examples_fit_their_schemas() -> None:
    examples = [(schema, example) for schema in SCHEMAS.values() for example in schema.get("examples", ())]
    assert examples
    for schema, example in examples:
        errors = list(Draft202012Validator({**schema, "components": DOCUMENT["components"]}).iter_errors(example))
        assert not errors
