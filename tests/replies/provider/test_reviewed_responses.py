"""What providers were seen to send over `/responses`, and what they might: nothing is lost."""

from typing import Any

from replies.provider.provider import ModelProvider
from replies.provider.stream_parts import Finished
from tests.provider import Exchange, Provider
from tests.replies.provider.conftest import joined, pieces_of
from tests.replies.provider.test_responses import MESSAGE, said

CALL = {"id": "fc_1", "type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}


async def test_an_item_that_only_the_end_tells_is_told(responses: ModelProvider, provider: Provider) -> None:
    def script(exchange: Exchange) -> None:
        exchange.begin_stream()
        exchange.event("response.output_item.added", output_index=0, item=said(""))
        exchange.event("response.output_text.delta", item_id="msg_1", output_index=0, delta="I look")
        exchange.event("response.output_item.done", output_index=0, item=said("I look."))
        exchange.event("response.completed", response={"status": "completed", "output": [said("I look."), CALL]})

    provider.script = script
    pieces = await pieces_of(responses)
    assert joined(pieces) == [(MESSAGE, "I look."), ({"type": "function_call", "call_id": "c1", "name": "f"}, "{}")]
    assert pieces[-1] == Finished("tool_calls")


async def test_an_item_that_never_ended_has_its_end_of_the_response(
    responses: ModelProvider, provider: Provider
) -> None:
    def script(exchange: Exchange) -> None:
        exchange.begin_stream()
        exchange.event("response.output_item.added", output_index=0, item=said(""))
        exchange.event("response.output_text.delta", item_id="msg_1", output_index=0, delta="I ")
        exchange.event("response.output_item.added", output_index=1, item={**CALL, "arguments": ""})
        exchange.event("response.completed", response={"status": "completed", "output": [said("I look."), CALL]})

    provider.script = script
    assert joined(await pieces_of(responses)) == [
        (MESSAGE, "I look."),
        ({"type": "function_call", "call_id": "c1", "name": "f"}, "{}"),
    ]


async def test_an_item_whose_id_changes_with_each_event_is_known_by_its_index(
    responses: ModelProvider, provider: Provider
) -> None:
    def script(exchange: Exchange) -> None:
        exchange.begin_stream()
        for index, item in enumerate((said(""), said(""))):
            exchange.event("response.output_item.added", output_index=index, item={**item, "id": f"a{index}"})
        for index in (0, 1, 0):
            exchange.event("response.output_text.delta", item_id=f"b{index}", output_index=index, delta=f"{index}")
        for index, text in enumerate(("00", "1")):
            exchange.event("response.output_item.done", output_index=index, item={**said(text), "id": f"c{index}"})
        output: list[dict[str, Any]] = [{**said("00"), "id": "d0"}, {**said("1"), "id": "d1"}]
        exchange.event("response.completed", response={"status": "completed", "output": output})

    provider.script = script
    assert joined(await pieces_of(responses)) == [(MESSAGE, "00"), (MESSAGE, "1")]
