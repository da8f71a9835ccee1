"""The table of served paths, the hint in a 404, and how a path is logged."""

import threading

import pytest
from starlette.applications import Starlette
from starlette.routing import Route, WebSocketRoute

from commands.main import create_app as create_command_app
from infrastructure.http.served_paths import SERVED, allowed_methods, loggable_path, not_served
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from queries.main import create_app as create_query_app


def apps() -> list[Starlette]:
    settings = Settings()
    return [create(settings, Metrics(), threading.Event()) for create in (create_command_app, create_query_app)]


def test_the_table_has_every_route_of_both_apps_and_nothing_else() -> None:
    routes: dict[str, set[str]] = {}
    for app in apps():
        for route in app.routes:
            if isinstance(route, WebSocketRoute):
                continue  # a WebSocket has no methods
            assert isinstance(route, Route)
            routes.setdefault(route.path, set()).update(route.methods or ())
    table = {path: {*methods.split()} for path, methods in SERVED.items()}
    assert {path: methods - {"HEAD"} for path, methods in routes.items()} == table, "SERVED differs from the routes"


def test_head_and_options_are_allowed_where_they_are_answered() -> None:
    assert allowed_methods("/v1/conversations/conv_1") == "DELETE, GET, HEAD, OPTIONS, POST"
    assert allowed_methods("/v1/import") == "OPTIONS, POST"
    assert allowed_methods("/v1/responses/compact") == "OPTIONS, POST"
    assert allowed_methods("*") == "DELETE, GET, HEAD, OPTIONS, POST"
    assert allowed_methods("/v1/nothing") == ""


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/openai/deployments/gpt/chat/completions", "Did you mean `/v1/chat/completions`?"),
        ("/chat/completions", "Did you mean `/v1/chat/completions`?"),
        ("/v1/chat", "Did you mean `/v1/chat/completions`?"),
        ("/v1/completions", "Use `POST /v1/chat/completions` or `POST /v1/responses`."),
        ("/v1/threads/thread_1/runs", "Use `/v1/conversations` and `/v1/responses`."),
        ("/v1/assistants", "Use `/v1/conversations` and `/v1/responses`."),
        ("/v1/embeddings", "This store does not serve it. Send the request to your model provider."),
        ("/v1/files/file-1/contents", "Below `/v1/files/{file_id}` are `/content`."),
        ("/responses", "Did you mean `/v1/responses`?"),
        ("/v1/v1/responses", "Did you mean `/v1/responses`?"),
        ("/v1/responses/", "Did you mean `/v1/responses`?"),
        ("/v1//models", "Did you mean `/v1/models`?"),
        ("/openai/v1/responses/resp_1/cancel", "Did you mean `/v1/responses/{response_id}/cancel`?"),
        ("/v1/conversation", "Did you mean `/v1/conversations`?"),
        (
            "/v1/conversations/conv_1/messages",
            "Below `/v1/conversations/{conversation_id}` are `/items`, `/fork`, `/tree`, `/responses`,",
        ),
        ("/v1/responses/resp_1/items", "Below `/v1/responses/{response_id}` are `/cancel`, `/input_items`"),
        ("/v1/secret", "The API is at `/v1`"),
        ("/", "The API is at `/v1`"),
        ("/" + "secret/" * 20_000, "The API is at `/v1`"),
    ],
)
def test_a_404_says_what_to_use_instead_and_does_not_repeat_the_path(path: str, hint: str) -> None:
    message = not_served(path)
    assert message.startswith("Nothing is served at this path. ")
    assert hint in message
    assert "secret" not in message
    assert len(message) < 300


@pytest.mark.parametrize(
    ("path", "logged"),
    [
        (f"/v1/conversations/conv_{'0' * 32}/items", f"/v1/conversations/conv_{'0' * 32}/items"),
        ("/health/ready", "/health/ready"),
        (f"/v1/chat/completions/chatcmpl-{'0' * 32}", f"/v1/chat/completions/chatcmpl-{'0' * 32}"),
        ("/v1/chat/completions/chatcmpl-secret", "/v1/chat/completions/*"),
        ("/v1/conversations/", "/v1/conversations/"),
        ("/v1/models/openai/gpt-5", "/v1/models/*/*"),
        ("/v1/conversations/my secret/items", "/v1/conversations/*/items"),
        (f"/v1/keys/cs_{'0' * 32}_{'0' * 64}", "/v1/keys/*"),
        ("/secret" * 1_000, "/*" * 12),
        ("*", "*"),
    ],
)
def test_only_ids_and_words_of_the_api_are_logged_of_a_path(path: str, logged: str) -> None:
    assert loggable_path(path) == logged
