"""The tests that the `eventsourcing` library has for recorders, run against our recorder."""

from collections.abc import Iterator

import pytest
from eventsourcing.persistence import ApplicationRecorder
from eventsourcing.tests import persistence

from infrastructure.event_log.datastore import Datastore
from infrastructure.event_log.recorder import ConversationRecorder
from infrastructure.settings import Settings


class TestConversationRecorder(persistence.ApplicationRecorderTestCase[ApplicationRecorder]):
    EXPECT_CONTIGUOUS_NOTIFICATION_IDS = False
    """Postgres does not reuse the numbers of failed inserts."""

    INITIAL_VERSION = 1
    test_performance = None  # type: ignore[assignment]  # it only measures
    test_concurrent_throughput = None  # type: ignore[assignment]  # it only measures

    @pytest.fixture(autouse=True)
    def _datastore(self, settings: Settings) -> Iterator[None]:
        self.datastore = Datastore(settings.postgres_url)
        yield
        self.datastore.close()

    def create_recorder(self) -> ApplicationRecorder:
        return ConversationRecorder(self.datastore)
