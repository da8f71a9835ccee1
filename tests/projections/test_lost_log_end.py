"""Views that are ahead of the log, because Postgres was restored from an older backup, start over."""

import psycopg
from structlog.testing import capture_logs

from infrastructure.event_log.log import EventLog
from infrastructure.observability.metrics import Metrics
from projections.views.catalog import ALL_VIEWS
from tests.projections.world import World
from tests.queries.writer import Writer
from tests.servers import EMPTY_TABLES


async def test_given_a_log_that_lost_its_end_when_views_are_ahead_of_it_then_they_start_over(
    write: Writer, live: World
) -> None:
    for _ in range(5):
        await write.start("lost")
    await live.until(live.caught_up)

    with capture_logs() as logged:
        with psycopg.connect(live.settings.postgres_url, autocommit=True) as connection:
            connection.execute(EMPTY_TABLES)
        log = EventLog(live.settings.postgres_url, Metrics())
        log.open()
        kept = await Writer(log).start("kept")
        await live.until(live.caught_up)
        await Writer(log).append(kept, "new")
        await live.until(live.caught_up)
        await log.close()

    assert await live.is_exact()
    ahead = {entry["projection"] for entry in logged if entry["event"] == "projection_started_over"}
    assert ahead == set(ALL_VIEWS)
