"""Makes the chat completion of a Response. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import UNSET

from context.transcripts.chat_messages import answer_message
from domain.items import Item, type_of
from infrastructure.ids import completion_id
from replies.chat_shape import (
    CalledCustomTool,
    CalledFunction,
    ChatAnnotation,
    ChatAnswer,
    ChatChoice,
    ChatCompletion,
    ChatToolCall,
    ChatUsage,
    CompletionTokensDetails,
    FinishReason,
    PromptTokensDetails,
    UrlCitation,
)
from replies.stream_events import parts_of

BETWEEN_REASONING = "\n\n"

_NO_ANSWER = ("queued", "in_progress", "failed")
_REASONS: Mapping[str, FinishReason] = {"content_filter": "content_filter"}


def chat_completion(response: Mapping[str, Any]) -> ChatCompletion:
    return ChatCompletion(
        id=completion_id(response["id"]),
        created=response["created_at"],
        model=response["model"],
        choices=[] if response["status"] in _NO_ANSWER else [_choice(response)],
        usage=chat_usage(response["usage"]),
        service_tier=response["service_tier"],
        metadata=response["metadata"],
    )


def chat_usage(usage: Mapping[str, Any] | None) -> ChatUsage | None:
    if usage is None:
        return None
    return ChatUsage(
        prompt_tokens=usage["input_tokens"],
        completion_tokens=usage["output_tokens"],
        total_tokens=usage["total_tokens"],
        prompt_tokens_details=PromptTokensDetails(**usage["input_tokens_details"]),
        completion_tokens_details=CompletionTokensDetails(**usage["output_tokens_details"]),
    )


def _choice(response: Mapping[str, Any]) -> ChatChoice:
    output: Sequence[Item] = response["output"]
    message = answer_message(output)
    reasoning = BETWEEN_REASONING.join(
        part.text for item in output if type_of(item) == "reasoning" for part in parts_of(item) if part.text
    )
    calls, old_call = message.get("tool_calls"), message.get("function_call")
    answer = ChatAnswer(
        content=message.get("content"),
        refusal=message.get("refusal"),
        annotations=[*_annotations(output)],
        tool_calls=UNSET if calls is None else [_tool_call(call) for call in calls],
        function_call=UNSET if old_call is None else CalledFunction(**old_call),
        reasoning_content=reasoning or UNSET,
    )
    return ChatChoice(message=answer, finish_reason=_finish_reason(response, message))


def _finish_reason(response: Mapping[str, Any], message: Item) -> FinishReason:
    """A reply that was cancelled or cut off also gets `length`. Chat Completions have no finish reason for it."""
    if response["status"] != "completed":
        return _REASONS.get((response.get("incomplete_details") or {}).get("reason", ""), "length")
    if "function_call" in message:
        return "function_call"
    return "tool_calls" if "tool_calls" in message else "stop"


def _tool_call(call: Item) -> ChatToolCall:
    if call["type"] == "custom":
        return ChatToolCall(id=call["id"], type="custom", custom=CalledCustomTool(**call["custom"]))
    return ChatToolCall(id=call["id"], type="function", function=CalledFunction(**call["function"]))


def _annotations(output: Sequence[Item]) -> Iterator[ChatAnnotation]:
    """A citation's indices count from the beginning of the answer's text."""
    start = 0
    for item in output:
        for part in parts_of(item) if type_of(item) == "message" else ():
            if part.kind != "output_text":
                continue
            for annotation in part.part.get("annotations") or ():
                if (cited := _citation(annotation, start)) is not None:
                    yield cited
            start += len(part.text)


def _citation(annotation: Any, start: int) -> ChatAnnotation | None:
    """None if the annotation is not a URL citation, or if a field is missing."""
    fields = annotation if isinstance(annotation, dict) and annotation.get("type") == "url_citation" else {}
    first, last = fields.get("start_index"), fields.get("end_index")
    title, url = fields.get("title"), fields.get("url")
    if not (isinstance(first, int) and isinstance(last, int) and isinstance(title, str) and isinstance(url, str)):
        return None
    return ChatAnnotation(UrlCitation(start_index=start + first, end_index=start + last, title=title, url=url))
