"""Scripts with a complete answer. `deltas` is for `/chat/completions`, and `items` is for `/responses`."""

from typing import Any

from tests.scripted_provider import Exchange, Script


def deltas(*deltas: dict[str, Any]) -> Script:
    def script(exchange: Exchange) -> None:
        exchange.begin_stream()
        for delta in deltas:
            exchange.delta(**delta)
        exchange.text_chunk(finish_reason="stop")
        exchange.end_stream()

    return script


def message(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": list(parts)}


def reasoning(*texts: str, summary: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "id": "rs_1",
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": text} for text in summary],
        "content": [{"type": "reasoning_text", "text": text} for text in texts],
    }


def items(*items: dict[str, Any]) -> Script:
    return lambda exchange: exchange.stream_items(*items)
