"""The answer of `/health/ready`, and the checks it is made of."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from starlette.responses import Response

from infrastructure.http.shapes import json_response

Check = Callable[[], Awaitable[bool]]

CHECK_TIMEOUT_SECONDS = 2


async def run_checks(checks: Mapping[str, Check]) -> dict[str, bool]:
    """Runs all checks at once. A check that raises or takes longer than CHECK_TIMEOUT_SECONDS has failed."""

    async def passes(check: Check) -> bool:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
                return await check()
        except Exception:  # noqa: BLE001 - any error means that the check failed
            return False

    results = await asyncio.gather(*(passes(check) for check in checks.values()))
    return dict(zip(checks, results, strict=True))


def readiness(passed: Mapping[str, bool], needed: frozenset[str]) -> Response:
    """`{status: ready|degraded|unavailable, checks}`: 200 while every needed check passes, else 503."""
    serving = all(passed.get(name, False) for name in needed)
    status = "unavailable" if not serving else "ready" if all(passed.values()) else "degraded"
    body = {"status": status, "checks": {name: "ok" if ok else "failed" for name, ok in passed.items()}}
    return json_response(body, 200 if serving else 503, {} if serving else {"retry-after": "1"})
