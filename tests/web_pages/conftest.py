"""Fixtures for the tests with web pages.

provider   a scripted model provider
site       a web site on this machine
"""

from collections.abc import Iterator

import pytest

from tests.scripted_provider import ScriptedProvider, scripted_provider
from tests.web_pages.browser import WebSite


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    yield from scripted_provider()


@pytest.fixture
def site() -> Iterator[WebSite]:
    site = WebSite({})
    yield site
    site.close()
