"""The answers of `/health/live` and `/health/ready`."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal

from msgspec import Struct
from starlette.responses import Response

from infrastructure.http.shapes import json_response

Check = Callable[[], Awaitable[bool]]

CHECK_TIMEOUT_SECONDS = 2


class Liveness(Struct, frozen=True):
    """The process runs."""

    status: Literal["live"]


class Readiness(Struct, frozen=True):
    """Whether requests can be served. `degraded`: most can be served, but a check has failed. `checks`: the result of each check, by name."""

    status: Literal["ready", "degraded", "unavailable"]
    checks: Mapping[str, Literal["ok", "failed"]]


async def run_checks(checks: Mapping[str, Check]) -> dict[str, bool]:
    """A check that raises or takes too long has failed."""

    async def passes(check: Check) -> bool:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
                return await check()
        except Exception:  # noqa: BLE001 - any error means that the check failed
            return False

    results = await asyncio.gather(*(passes(check) for check in checks.values()))
    return dict(zip(checks, results, strict=True))


def readiness(passed: Mapping[str, bool], needed: frozenset[str]) -> Response:
    """200 while every needed check passes, otherwise 503."""
    serving = all(passed.get(name, False) for name in needed)
    status: Literal["ready", "degraded", "unavailable"] = "ready" if all(passed.values()) else "degraded"
    body = Readiness(
        status if serving else "unavailable", {name: "ok" if ok else "failed" for name, ok in passed.items()}
    )
    return json_response(body, 200 if serving else 503, {} if serving else {"retry-after": "1"})
