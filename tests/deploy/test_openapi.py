"""The file that nginx serves equals the OpenAPI document that the code generates."""

import json

from scripts.openapi import FILE, rendered


def test_the_file_equals_the_document_of_the_code() -> None:
    assert FILE.read_text() == rendered(), "run `scripts/run openapi`, which writes the file"


def test_a_path_has_the_methods_of_both_apis() -> None:
    paths = json.loads(FILE.read_text())["paths"]
    assert set(paths["/v1/conversations"]) >= {"get", "post"}
    assert set(paths["/v1/conversations/{conversation_id}"]) >= {"get", "post", "delete"}
    assert set(paths["/v1/responses"]) == {"post"}


def test_no_description_has_the_indentation_of_its_docstring() -> None:
    assert "\\n    " not in FILE.read_text()  # Markdown shows indented lines as code
