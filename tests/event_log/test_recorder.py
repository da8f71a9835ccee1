"""The library's own contract for recorders, run against ours."""

from collections.abc import Iterator

import pytest
from eventsourcing.persistence import ApplicationRecorder
from eventsourcing.tests import persistence

from infrastructure.event_log.recorder import ConversationRecorder, Datastore
from infrastructure.settings import Settings


class TestConversationRecorder(persistence.ApplicationRecorderTestCase[ApplicationRecorder]):
    EXPECT_CONTIGUOUS_NOTIFICATION_IDS = False
    """A position may be skipped: Postgres does not give numbers of failed inserts back."""

    INITIAL_VERSION = 1
    test_performance = None  # type: ignore[assignment]  # measures, asserts nothing
    test_concurrent_throughput = None  # type: ignore[assignment]  # likewise

    @pytest.fixture(autouse=True)
    def _datastore(self, settings: Settings) -> Iterator[None]:
        self.datastore = Datastore(settings.postgres_url)
        yield
        self.datastore.close()

    def create_recorder(self) -> ApplicationRecorder:
        return ConversationRecorder(self.datastore)
