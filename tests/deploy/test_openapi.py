"""The OpenAPI that the gateway serves is the one of the code, and covers what the contract names."""

import json

from scripts.openapi import FILE, rendered


def test_the_file_is_what_the_code_says() -> None:
    assert FILE.read_text() == rendered(), "write it anew: python -m scripts.openapi"


def test_both_sides_are_one_api() -> None:
    paths = json.loads(FILE.read_text())["paths"]
    assert set(paths["/v1/conversations"]) >= {"get", "post"}
    assert set(paths["/v1/conversations/{conversation_id}"]) >= {"get", "post", "delete"}
    assert set(paths["/v1/responses"]) == {"post"}
