"""Reads the query of a URL. A mistyped `as_of` must not get the newest items, so unknown names are refused."""

from collections.abc import Callable
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import HTTPConnection, Request

from infrastructure.http.errors import ApiError, invalid

ACCEPTED_EVERYWHERE = frozenset({"include", "include[]", "api-version"})
"""Official clients send these parameters with any request. `include` changes an answer only if it names the data of images."""


def check_names(request: HTTPConnection, is_served: Callable[[str], bool]) -> None:
    """Raises ApiError (400) for the first unknown parameter."""
    for name in request.query_params:
        if name not in ACCEPTED_EVERYWHERE and not is_served(name):
            raise ApiError(400, f"Unknown query parameter: `{name[:64]}`.", code="unknown_parameter", param=name[:64])


class QueryParameters(BaseModel):
    """The parameters of a query string. Each is converted from text to its field's type."""

    model_config = ConfigDict(frozen=True)

    @classmethod
    def serves(cls, name: str) -> bool:
        return any(name in (field.alias, field_name) for field_name, field in cls.model_fields.items())

    @classmethod
    def from_request(cls, request: Request) -> Self:
        """If a parameter is repeated, its last value counts. If its name ends with `[]`, all values become a list.

        Raises ApiError (400).
        """
        params = request.query_params
        check_names(request, cls.serves)
        sent = {name: params.getlist(name) if name.endswith("[]") else params[name] for name in params}
        try:
            return cls.model_validate(sent)
        except ValidationError as error:
            raise invalid(error, sent) from error
