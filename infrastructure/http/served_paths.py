"""Every path that the two APIs serve, and the message of a 404.

Each app knows the paths of both apps, because clients reach both apps at one address.
"""

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Final

from starlette.routing import compile_path

from infrastructure.ids import is_id, response_id_of

_CONVERSATION = "/v1/conversations/{conversation_id}"
_ITEM = f"{_CONVERSATION}/items/{{item_id}}"
_RESPONSE = "/v1/responses/{response_id}"
_COMPLETION = "/v1/chat/completions/{completion_id}"

SERVED: Final[Mapping[str, str]] = {
    "/v1/conversations": "GET POST",
    _CONVERSATION: "GET POST DELETE",
    f"{_CONVERSATION}/items": "GET POST",
    _ITEM: "GET POST DELETE",
    f"{_ITEM}/pin": "POST",
    f"{_ITEM}/unpin": "POST",
    f"{_ITEM}/restore": "POST",
    f"{_ITEM}/feedback": "POST DELETE",
    f"{_CONVERSATION}/fork": "POST",
    f"{_CONVERSATION}/tree": "GET",
    f"{_CONVERSATION}/responses": "GET",
    f"{_CONVERSATION}/events": "GET",
    f"{_CONVERSATION}/context": "GET",
    f"{_CONVERSATION}/shares": "GET POST DELETE",
    f"{_CONVERSATION}/feedback": "GET",
    f"{_CONVERSATION}/head": "POST",
    f"{_CONVERSATION}/compact": "POST",
    f"{_CONVERSATION}/compact/undo": "POST",
    f"{_CONVERSATION}/compact/redo": "POST",
    f"{_CONVERSATION}/end": "POST",
    f"{_CONVERSATION}/reopen": "POST",
    f"{_CONVERSATION}/archive": "POST",
    f"{_CONVERSATION}/unarchive": "POST",
    "/v1/responses": "POST",
    "/v1/responses/compact": "POST",
    "/v1/responses/input_tokens": "POST",
    _RESPONSE: "GET DELETE",
    f"{_RESPONSE}/cancel": "POST",
    f"{_RESPONSE}/input_items": "GET",
    f"{_RESPONSE}/context": "GET",
    f"{_RESPONSE}/feedback": "POST DELETE",
    "/v1/chat/completions": "GET POST",
    _COMPLETION: "GET POST DELETE",
    f"{_COMPLETION}/messages": "GET",
    "/v1/files": "GET POST",
    "/v1/files/{file_id}": "GET DELETE",
    "/v1/files/{file_id}/content": "GET",
    "/v1/models": "GET",
    "/v1/models/{model_id:path}": "GET",
    "/v1/import": "POST",
    "/v1/search": "GET",
    "/v1/feedback": "GET",
    "/v1/usage": "GET",
    "/v1/keys": "GET POST",
    "/v1/keys/{key_id}": "DELETE",
    "/v1/projections": "GET",
    "/health/live": "GET",
    "/health/ready": "GET",
    "/openapi.json": "GET",
    "/docs": "GET",
    "/docs/swagger-ui-bundle.js": "GET",
    "/docs/swagger-ui.css": "GET",
    "/docs/favicon.png": "GET",
}

_PROVIDER = "This store does not serve it. Send the request to your model provider."
_CONVERSATIONS = "Use `/v1/conversations` and `/v1/responses`."
_ELSEWHERE: Final[Mapping[str, str]] = {
    "completions": "Use `POST /v1/chat/completions` or `POST /v1/responses`.",
    "threads": _CONVERSATIONS,
    "assistants": _CONVERSATIONS,
    "metrics": "Each process serves its metrics on a port of their own, `METRICS_PORT`.",
    **dict.fromkeys(
        [
            "audio",
            "batches",
            "containers",
            "embeddings",
            "evals",
            "fine_tuning",
            "images",
            "moderations",
            "realtime",
            "uploads",
            "vector_stores",
            "videos",
        ],
        _PROVIDER,
    ),
}
"""By a path's first step after `/v1`: what to use instead."""

_START = "The API is at `/v1`, such as `/v1/conversations` and `/v1/responses`; `/docs` lists every path."
_NOT_SERVED = "Nothing is served at this path."
_MAX_STEPS = 16

_PATTERNS = [(template, compile_path(template)[0]) for template in sorted(SERVED, key=lambda path: "{" in path)]
"""Paths without ids come first, so `compact` in `/v1/responses/compact` is not taken for an id."""


_WORDS = frozenset({step for template in SERVED for step in template.split("/") if "{" not in step} | {*_ELSEWHERE})
_MAX_LOGGED_STEPS = 12


def loggable_path(path: str) -> str:
    """Writes `*` for each step that is neither a word of the API nor an id. Such a step may be a text or a key."""
    steps = path.split("/", _MAX_LOGGED_STEPS)
    return "/".join([step if step in _WORDS or is_id(step) or response_id_of(step) else "*" for step in steps])


def template_of(path: str) -> str | None:
    """The template, such as `/v1/responses/{response_id}`. None if the path is not served."""
    return next((template for template, pattern in _PATTERNS if pattern.match(path)), None)


def allowed_methods(path: str) -> str:
    """The value of `Allow`; empty if the path is not served. `*` means the whole server."""
    template = template_of(path)
    served = " ".join(SERVED.values()) if path == "*" else SERVED.get(template or "", "")
    methods = {*served.split()}
    if "GET" in methods:
        methods.add("HEAD")
    return ", ".join(sorted({*methods, "OPTIONS"})) if methods else ""


def not_served(path: str) -> str:
    """The message of a 404. It never contains the path that was sent."""
    steps = [step for step in path.split("/", _MAX_STEPS) if step][:_MAX_STEPS]
    return f"{_NOT_SERVED} {_use_instead(steps) or _meant(steps) or _subpaths(steps) or _similar(steps) or _START}"


def _use_instead(steps: Sequence[str]) -> str | None:
    [name, *_] = [step for step in steps if step not in ("v1", "openai", "api")] or [""]
    return _ELSEWHERE.get(name)


def _meant(steps: Sequence[str]) -> str | None:
    """For a wrong prefix, or a slash at the end."""
    for rest in (steps[start:] for start in range(len(steps))):
        for path in ("/".join(["", *rest]), "/".join(["", "v1", *rest])):
            if (template := template_of(path)) is not None:
                return f"Did you mean `{_shown(template)}`?"
    return None


def _subpaths(steps: Sequence[str]) -> str | None:
    """Lists the paths below a served beginning of this path."""
    for end in range(len(steps) - 1, 1, -1):
        template = template_of("/".join(["", *steps[:end]]))
        subpaths = [f"`{path[len(template) :]}`" for path in _paths_under(template)] if template else []
        if template is not None and subpaths:
            return f"Below `{_shown(template)}` are {', '.join(subpaths)}."
    return None


def _paths_under(template: str) -> Iterator[str]:
    return (path for path in SERVED if path.rpartition("/")[0] == template and "{" not in path[len(template) :])


def _similar(steps: Sequence[str]) -> str | None:
    names = {path.split("/")[2]: path for path in reversed([*SERVED]) if path.startswith("/v1/")}
    last = next((step[:64] for step in steps if step != "v1"), "")
    return next((f"Did you mean `{names[name]}`?" for name in get_close_matches(last, names, 1, 0.75)), None)


def _shown(template: str) -> str:
    return template.replace(":path}", "}")
