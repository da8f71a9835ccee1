"""What the query side's readiness looks at. Only MongoDB must be there: reads go on without all the others."""

from collections.abc import Mapping
from typing import Final

from infrastructure.http.app import Check
from queries.projections_status import standings
from queries.query_context import Sources

NEEDED: Final = frozenset({"mongodb"})


def checks(sources: Sources) -> Mapping[str, Check]:
    """Each store, the projector by how far its views are behind, and the model's provider where one is configured."""

    async def postgres() -> bool:
        await sources.log.ask(lambda reader: reader.last_position())
        return True

    async def mongodb() -> bool:
        await sources.views.command("ping")
        return True

    async def redis() -> bool:
        return bool(await sources.redis.ping())

    async def projector() -> bool:
        return all(each.is_usual for each in await standings(sources))

    async def model() -> bool:
        await sources.provider.list_models()
        return True

    found: dict[str, Check] = {"postgres": postgres, "mongodb": mongodb, "redis": redis, "projector": projector}
    return {**found, "model": model} if sources.provider.configured else found
