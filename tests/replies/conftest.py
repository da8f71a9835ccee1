"""Fixtures for the tests of replies.

log   reads the event log of the test's own database
"""

import pytest

from infrastructure.settings import Settings
from tests.log import Log


@pytest.fixture
def log(settings: Settings) -> Log:
    return Log(settings.postgres_url)
