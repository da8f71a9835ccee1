"""The readiness checks of the query API. MongoDB must answer. Most reads work without the other stores."""

from collections.abc import Mapping
from typing import Final

from infrastructure.http.readiness import Check
from infrastructure.stores.postgres import is_writable
from queries.query_context import ProcessDependencies

REQUIRED: Final = frozenset({"mongodb"})


def checks(dependencies: ProcessDependencies) -> Mapping[str, Check]:
    async def postgres() -> bool:
        await dependencies.log.end()
        return True

    async def log_writable() -> bool:
        return await is_writable(dependencies.write_pool)

    async def mongodb() -> bool:
        await dependencies.views.command("ping")
        return True

    async def redis() -> bool:
        return bool(await dependencies.redis.ping())

    async def projector() -> bool:
        return all(report.is_healthy for report in await dependencies.view_reports.read())

    async def model() -> bool:
        await dependencies.provider.list_models()
        return True

    checks: dict[str, Check] = {
        "postgres": postgres,
        "log_writable": log_writable,
        "mongodb": mongodb,
        "redis": redis,
        "partitions_held": dependencies.partition_watch.are_all_held,
        "projector": projector,
    }
    return {**checks, "model": model} if dependencies.provider.configured else checks
