"""Fixtures for the tests with web pages."""

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
