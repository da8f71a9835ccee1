"""POST /v1/responses/{id}/cancel, sent to the app that runs the reply and to a second app."""

import asyncio

import httpx

from tests.commands.api_client import error_of, post_response
from tests.log import Log

WITH_PROVIDER = {"model_window": 2_000}


async def test_while_a_reply_completes_the_answers_to_cancel_agree_with_the_log(
    apis: list[httpx.AsyncClient], log: Log
) -> None:
    async def cancel_while_it_completes(number: int) -> None:
        queued = (await post_response(apis[0], "hi", background=True)).json()
        await asyncio.sleep(0.003 * number)
        path = f"/v1/responses/{queued['id']}/cancel"
        answers = await asyncio.gather(*(api.post(path) for api in apis))
        topics = log.topics(queued["conversation"]["id"])
        ends = [topic for topic in topics if topic in ("reply.completed", "reply.cancelled", "reply.interrupted")]
        assert len(ends) == 1
        for answer in answers:
            if answer.status_code == 200:
                assert answer.json()["status"] == ends[0].removeprefix("reply.")
            else:
                assert error_of(answer) == (400, "response_over", "response_id")
                assert ends == ["reply.completed"]

    await asyncio.gather(*map(cancel_while_it_completes, range(40)))
