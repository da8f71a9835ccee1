"""Migrations of the event store, and the epoch of the log (`log_epoch`)."""

import psycopg
import pytest

from infrastructure.event_log.migrate import DataIsNewer, check_migrations, migrate
from infrastructure.ids import uuid_of
from infrastructure.settings import Settings
from tests.access.made_keys import store_new_key
from tests.log import Log

ROW = "INSERT INTO events (originator_id, originator_version, topic, state) VALUES (gen_random_uuid(), 1, '', '')"


def test_migrating_again_applies_nothing(settings: Settings) -> None:
    assert migrate(settings.postgres_url) == []


def test_superseded_forms_of_the_function_append_at_once_do_not_exist(log: Log) -> None:
    functions = log.rows(
        "SELECT pg_get_function_identity_arguments(oid) FROM pg_proc WHERE proname = 'append_at_once' ORDER BY pronargs"
    )
    assert ["rows append_row[]" in arguments for (arguments,) in functions] == [True, True]
    assert ["prefix_rows" in arguments for (arguments,) in functions] == [False, True]


def test_the_error_for_unknown_migrations_names_the_newest_migration(
    settings: Settings,
) -> None:
    unknown = ["9998_next.sql", "9999_after_next.sql"]
    with psycopg.connect(settings.postgres_url, autocommit=True) as connection:
        connection.execute("INSERT INTO migrations (name) SELECT unnest(%s::text[])", [unknown])
        try:
            for opens in (migrate, check_migrations):
                with pytest.raises(DataIsNewer, match=r"migration 9999_after_next\.sql;") as refusal:
                    opens(settings.postgres_url)
                assert refusal.value.newest_known < "9998"
        finally:
            connection.execute("DELETE FROM migrations WHERE name = ANY(%s)", [unknown])
    check_migrations(settings.postgres_url)


def test_migrating_after_the_restore_of_an_older_dump_restores_the_epoch_triggers(settings: Settings, log: Log) -> None:
    with psycopg.connect(settings.postgres_url, autocommit=True) as connection:
        # As after `pg_restore --clean` of a dump that has no epoch. The table `log_epoch` stays.
        connection.execute("DROP TRIGGER begin_log_epoch ON events")
        connection.execute("DROP TRIGGER begin_log_epoch_at_truncate ON events")
        connection.execute("DELETE FROM migrations WHERE name = '0011_log_epoch.sql'")
    assert migrate(settings.postgres_url) == ["0011_log_epoch.sql"]
    [(before,)] = log.rows("SELECT epoch FROM log_epoch")
    with psycopg.connect(settings.postgres_url, autocommit=True) as connection:
        connection.execute(ROW)
        connection.execute("DELETE FROM events")
    [(after,)] = log.rows("SELECT epoch FROM log_epoch")
    assert after != before


def test_migrations_from_14_on_succeed_if_their_tables_exist(settings: Settings, log: Log) -> None:
    # After `pg_restore --clean` of an older dump, newer tables still exist, but their migrations have no rows.
    with psycopg.connect(settings.postgres_url, autocommit=True) as connection:
        connection.execute("DELETE FROM migrations WHERE name >= '0014'")
    numbers = [name[:4] for name in migrate(settings.postgres_url)]
    assert numbers == [f"{number:04}" for number in range(14, 14 + len(numbers))]
    assert numbers[-1] >= "0020"


@pytest.mark.parametrize(
    "statement", ["DELETE FROM events", "TRUNCATE events", "TRUNCATE events, log_epoch", "DELETE FROM log_epoch"]
)
def test_removing_rows_begins_another_epoch_even_without_ordinary_triggers(
    settings: Settings, log: Log, statement: str
) -> None:
    [(before,)] = log.rows("SELECT epoch FROM log_epoch")
    with psycopg.connect(settings.postgres_url, autocommit=True) as connection:
        connection.execute(ROW)
        connection.execute("SET session_replication_role = replica")
        connection.execute(statement.encode())
    [(after,)] = log.rows("SELECT epoch FROM log_epoch")
    assert after != before


def test_a_delete_that_removes_no_row_begins_no_epoch(settings: Settings, log: Log) -> None:
    [(before,)] = log.rows("SELECT epoch FROM log_epoch")
    with psycopg.connect(settings.postgres_url, autocommit=True) as connection:
        connection.execute("DELETE FROM events WHERE originator_id = gen_random_uuid()")
    assert log.rows("SELECT epoch FROM log_epoch") == [(before,)]


def test_api_keys_stay_after_the_restore_of_an_older_dump(
    settings: Settings,
) -> None:
    """`pg_restore --clean` keeps the keys, but their migration has no row."""
    key = store_new_key(settings.postgres_url)
    with psycopg.connect(settings.postgres_url, autocommit=True) as connection:
        connection.execute("DELETE FROM migrations WHERE name = '0014_api_keys.sql'")
    assert migrate(settings.postgres_url) == ["0014_api_keys.sql"]
    assert Log(settings.postgres_url).rows("SELECT id FROM api_keys") == [(uuid_of(key.id),)]
