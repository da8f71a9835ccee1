"""Postgres came back from an older backup: the views showed what the log has no more, and are made anew."""

import psycopg
from structlog.testing import capture_logs

from infrastructure.event_log.log import EventLog
from infrastructure.observability.metrics import Metrics
from projections.views.catalog import ALL_VIEWS
from tests.projections.world import World
from tests.queries.writer import Writer
from tests.servers import EMPTY_TABLES


async def test_given_the_log_lost_its_end_when_views_are_ahead_of_it_then_they_are_made_anew(
    write: Writer, live: World
) -> None:
    for _ in range(5):
        await write.start("lost")
    await live.until(live.shown)

    with capture_logs() as logged:
        with psycopg.connect(live.settings.postgres_url, autocommit=True) as connection:
            connection.execute(EMPTY_TABLES)
        log = EventLog(live.settings.postgres_url, Metrics())
        log.open()
        kept = await Writer(log).start("kept")
        await live.until(live.shown)
        await Writer(log).append(kept, "new")
        await live.until(live.shown)
        await log.close()

    assert await live.is_exact()
    ahead = {entry["projection"] for entry in logged if entry["event"] == "projection_ahead_of_log"}
    assert ahead == set(ALL_VIEWS)
