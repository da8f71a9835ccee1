"""Hooks for schemathesis: how to send a body of JSON lines, and which reported failures to ignore."""

from typing import Any

import schemathesis
from schemathesis import SerializationContext


@schemathesis.serializer("application/x-ndjson")
def json_lines(_: SerializationContext, value: Any) -> bytes:
    """The body of an import as bytes. schemathesis generates it as text."""
    return value if isinstance(value, bytes) else str(value).encode()


@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """Whether a failure counts. Two kinds do not:

    - A 503 to a request with `X-Min-Position`. The log does not reach that position, so the store waits until its
      timeout.
    - A single text as `include[]`. schemathesis expects an error, but the store takes it as a list with one value.
    """
    awaits_position = response.status_code == 503 and "X-Min-Position" in (case.headers or {})
    one_include = isinstance((case.query or {}).get("include[]"), str)
    return not awaits_position and not one_include
