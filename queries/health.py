"""The readiness checks of the query API. It is ready while MongoDB answers; most reads work without the other stores."""

from collections.abc import Mapping
from typing import Final

from infrastructure.http.app import Check
from queries.projections_status import view_reports
from queries.query_context import Dependencies

REQUIRED: Final = frozenset({"mongodb"})


def checks(dependencies: Dependencies) -> Mapping[str, Check]:
    """One check for each store, one for the projector (how far the views are behind), and one for a configured model provider."""

    async def postgres() -> bool:
        await dependencies.log.last_position()
        return True

    async def mongodb() -> bool:
        await dependencies.views.command("ping")
        return True

    async def redis() -> bool:
        return bool(await dependencies.redis.ping())

    async def projector() -> bool:
        return all(report.is_healthy for report in await view_reports(dependencies))

    async def model() -> bool:
        await dependencies.provider.list_models()
        return True

    stores: dict[str, Check] = {"postgres": postgres, "mongodb": mongodb, "redis": redis, "projector": projector}
    return {**stores, "model": model} if dependencies.provider.configured else stores
