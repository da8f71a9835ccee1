"""200 replies of two api processes are stopped in every way, under each policy. Then all views are rebuilt.

Each conversation must have the items that the rule in `tests/replies/test_stopped_replies.py` says.

scripts/test tests/end_to_end/test_stopped_replies.py -m endless
"""

import asyncio
import itertools
import subprocess
import sys

import httpx
import pytest

from tests.end_to_end.reply_streams import retrieve_when
from tests.replies.stopped_cases import ANSWERS, STOP_REASONS, Case, Stops, cases
from tests.scripted_provider import ScriptedProvider
from tests.servers import ROOT
from tests.system import System

UP = ("--apis", "2")
WITH_PROVIDER = True
COUNT, KILLED, AT_ONCE = 200, 24, 16


def killed_cases(start: int) -> list[Case]:
    every = itertools.product(("drop", "keep"), ("stop", "finish"), ANSWERS)
    return [Case(start + 2 * number, "kill", *facts) for number, facts in enumerate(itertools.islice(every, KILLED))]


@pytest.mark.endless
async def test_stopped_replies_join_their_conversations_as_the_rule_says(
    running: System, http: httpx.AsyncClient, urls: list[str], provider: ScriptedProvider
) -> None:
    stops = Stops(provider, http, urls)
    planned = cases(COUNT - KILLED, STOP_REASONS)
    for first in range(0, len(planned), AT_ONCE):
        batch = planned[first : first + AT_ONCE]
        asking = await asyncio.gather(*map(stops.begin, batch))
        await asyncio.gather(*map(stops.stop, batch, asking))

    killed = killed_cases(2 * COUNT)
    asking = await asyncio.gather(*map(stops.begin, killed))
    running.wait_restarted("api", running.kill("api"))
    await asyncio.wait(asking)
    await asyncio.gather(
        *(retrieve_when(http, urls[1], stops.responses[case.number], "incomplete", 30) for case in killed)
    )
    running.wait_ready()
    for command in (["scripts.verify"], ["scripts.rebuild", "all"], ["scripts.verify"]):
        arguments = [sys.executable, "-m", *command, "--data", str(running.data)]
        done = await asyncio.to_thread(subprocess.run, arguments, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    for case in (*planned, *killed):
        await stops.check(case)
