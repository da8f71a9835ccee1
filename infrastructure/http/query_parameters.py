"""Names in the query of a URL. One that is not served is a 400: a mistyped `as_of` must not be answered with the newest items."""

from collections.abc import Callable

from starlette.requests import HTTPConnection

from infrastructure.http.errors import ApiError

ACCEPTED_EVERYWHERE = frozenset({"include", "include[]", "api-version"})
"""What official clients send with requests of any kind. Every answer is complete without `include`; Azure's client sends `api-version`."""


def check_names(request: HTTPConnection, is_served: Callable[[str], bool]) -> None:
    """Raises ApiError (400) that names the first parameter that is neither served nor accepted everywhere."""
    for name in request.query_params:
        if name not in ACCEPTED_EVERYWHERE and not is_served(name):
            raise ApiError(400, f"Unknown query parameter: `{name[:64]}`.", code="unknown_parameter", param=name[:64])
