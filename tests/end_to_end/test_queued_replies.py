"""Fifty requests at once into one conversation under each `on_busy`, on two processes, one of which is killed."""

from collections.abc import Awaitable, Callable

import httpx
import pytest

from tests.end_to_end.requests_at_once import RequestsAtOnce, check_interrupt, check_queue, check_reject
from tests.end_to_end.test_crashes import assert_views_equal_the_log
from tests.scripted_provider import ScriptedProvider
from tests.system import System

UP = ("--apis", "2")
WITH_PROVIDER = True
FIFTY = 50


@pytest.mark.endless
@pytest.mark.parametrize("check", [check_queue, check_reject, check_interrupt])
async def test_of_fifty_requests_at_once_each_ends_as_its_on_busy_says_and_in_order(
    running: System,
    http: httpx.AsyncClient,
    urls: list[str],
    provider: ScriptedProvider,
    check: Callable[[RequestsAtOnce, int], Awaitable[None]],
) -> None:
    requests = RequestsAtOnce(running, http, urls, provider)
    await requests.open()
    pid = running.pid("api")
    await check(requests, FIFTY)
    running.wait_restarted("api", pid)
    running.wait_ready()
    next_turn = {"input": "again", "conversation": requests.conversation}
    assert (await http.post(f"{urls[1]}/v1/responses", json=next_turn)).status_code == 200
    assert_views_equal_the_log(running)
