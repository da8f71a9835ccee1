"""Many requests at once to one conversation, while an api is killed. A waiting reply, while its api is frozen."""

import signal
from collections.abc import Awaitable, Callable

import httpx
import pytest

from domain.events import REPLY_ENDS, ReplyQueued, ReplyRequested
from tests.end_to_end.requests_at_once import Request, RequestsAtOnce, check_interrupt, check_queue, check_reject
from tests.end_to_end.test_crashes import assert_views_equal_the_log
from tests.scripted_provider import ScriptedProvider
from tests.system import System

UP = ("--apis", "2")
WITH_PROVIDER = True
FIFTY = 50


@pytest.mark.endless
@pytest.mark.parametrize("check", [check_queue, check_reject, check_interrupt])
async def test_fifty_requests_at_once_end_as_their_on_busy_says(
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


@pytest.mark.endless
async def test_a_frozen_process_does_not_run_a_reply_that_another_process_took_over(
    running: System, http: httpx.AsyncClient, urls: list[str], provider: ScriptedProvider
) -> None:
    requests = RequestsAtOnce(running, http, urls, provider)
    await requests.open()
    await requests.ask_first(process=1)
    requests.ask(Request("frozen", 0, background=True), on_busy="queue")
    await requests.until(lambda: requests.texts(ReplyQueued) == ["frozen"], "the reply to wait")
    running.kill("api", signal.SIGSTOP)
    try:
        requests.answers.release("first")
        await requests.until(lambda: requests.answers.questions == ["first", "frozen"], "the reply to be taken over")
    finally:
        running.kill("api", signal.SIGCONT)
    next_turn = {"input": "next", "conversation": requests.conversation, "on_busy": "queue", "background": True}
    assert (await http.post(f"{urls[0]}/v1/responses", json=next_turn)).status_code == 200
    requests.answers.release()
    await requests.until(lambda: len(requests.ends()) == 3, "all replies to end")
    assert requests.texts(ReplyRequested) == ["first", "frozen", "next"]
    assert sum(isinstance(event, REPLY_ENDS) for event in requests.events) == 3
    assert_views_equal_the_log(running)
