"""Migrations of the event store."""

from infrastructure.event_log.migrate import migrate
from infrastructure.settings import Settings
from tests.log import Log


def test_given_a_migrated_database_when_it_is_migrated_again_then_nothing_is_applied(settings: Settings) -> None:
    assert migrate(settings.postgres_url) == []


def test_given_a_migrated_database_then_superseded_forms_of_append_at_once_are_gone(log: Log) -> None:
    [(arguments,)] = log.rows(
        "SELECT pg_get_function_identity_arguments(oid) FROM pg_proc WHERE proname = 'append_at_once'"
    )
    assert "rows append_row[]" in arguments
