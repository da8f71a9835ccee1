"""Checks the messages of a Chat Completions request. Pydantic models would take ten times as long for long
transcripts.

Unknown fields and unknown types of parts are accepted. Shapes: `openai/types/chat/chat_completion_*_param.py` of the official
SDK.
"""

from collections.abc import Sequence
from typing import Any, NoReturn

import msgspec

from commands.bodies import MAX_ITEM_BYTES
from infrastructure.http.errors import ApiError

MAX_ANSWER_BYTES = 4 * MAX_ITEM_BYTES
"""The most bytes of an assistant's message, as JSON text. It is larger than for other messages, because clients send our
answers back, and an answer may have a million characters.
"""

MAX_ESCAPED_BYTES = 6
"""The most bytes that msgspec writes for one character: a control character is `\\u0001`."""

_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_CONTENT = "it must be a string or a list of parts"
_PART_FIELDS = {"image_url": ("url",), "input_audio": ("data", "format"), "file": ()}
"""The strings that a part's object must have, by the part's type."""

_FILE_FIELDS = ("file_data", "file_id", "filename")
_CALLS = ("tool_calls", "function_call")
_CALL_FIELDS = {"function": ("name", "arguments"), "custom": ("name", "input")}


def check_messages(messages: Sequence[Any], are_known: Sequence[bool], *, are_all: bool = True) -> None:
    """Raises ApiError (400, 413) for the first message or field that is wrong.

    Each tool message must answer a call of an earlier message. If the messages continue a stored conversation
    (`are_all` is False), the call may also be in that conversation. A call has at most one answer.

    `are_known`: which messages were checked before.
    """
    calls: dict[str, bool] = {}  # by id: whether it is answered
    for index, message in enumerate(messages):
        if not are_known[index]:
            _check_message(message, f"messages[{index}]")
        if message["role"] == "assistant":
            calls.update((call["id"], False) for call in message.get("tool_calls") or ())
        elif message["role"] == "tool":
            if not are_all:
                calls.setdefault(message["tool_call_id"], False)
            _check_answers_call(message["tool_call_id"], calls, f"messages[{index}].tool_call_id")


def _check_message(message: Any, path: str) -> None:
    if not isinstance(message, dict):
        _refuse(path, "it must be an object")
    role = message.get("role")
    if role not in _ROLES:
        _refuse(f"{path}.role", f"it must be one of {', '.join(_ROLES)}")
    for name in () if role == "assistant" else _CALLS:
        if message.get(name):
            _refuse(f"{path}.{name}", "only a message of the assistant has calls")
    if role == "assistant":
        _check_assistant(message, path)
    elif role == "function":
        _check_strings(message, path, "name")
        if not isinstance(message.get("content"), str | None):
            _refuse(f"{path}.content", "it must be a string or null")
    else:
        _check_content(message.get("content"), f"{path}.content")
        if role == "tool":
            _check_strings(message, path, "tool_call_id")
    _check_size(message, path)


def _check_answers_call(call_id: str, calls: dict[str, bool], path: str) -> None:
    if call_id not in calls:
        _refuse(path, "no earlier message of the assistant has a call with this id")
    if calls[call_id]:
        _refuse(path, "an earlier message already answers the call with this id")
    calls[call_id] = True


def _check_assistant(message: dict[str, Any], path: str) -> None:
    if message.get("content") is not None:
        _check_content(message["content"], f"{path}.content")
    if not isinstance(message.get("refusal"), str | None):
        _refuse(f"{path}.refusal", "it must be a string or null")
    if (audio := message.get("audio")) is not None:
        _check_object(audio, f"{path}.audio", "id")
    if (call := message.get("function_call")) is not None:
        _check_object(call, f"{path}.function_call", "name", "arguments")
    calls = message.get("tool_calls")
    if not isinstance(calls, list | None):
        _refuse(f"{path}.tool_calls", "it must be a list")
    ids = set()
    for index, call in enumerate(calls or ()):
        call_path = f"{path}.tool_calls[{index}]"
        _check_object(call, call_path, "id")
        kind = call.get("type") or "function"
        if not isinstance(kind, str) or kind not in _CALL_FIELDS:
            _refuse(f"{call_path}.type", "it must be function or custom")
        _check_object(call.get(kind), f"{call_path}.{kind}", *_CALL_FIELDS[kind])
        if not call["id"] or call["id"] in ids:
            _refuse(f"{call_path}.id", "each call needs an id of its own")
        ids.add(call["id"])


def _check_content(content: Any, path: str) -> None:
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        _refuse(path, _CONTENT)
    for index, part in enumerate(content):
        _check_part(part, f"{path}[{index}]")


def _check_part(part: Any, path: str) -> None:
    _check_object(part, path, "type")
    kind = part["type"]
    if kind in ("text", "refusal"):
        _check_strings(part, path, kind)
    elif kind in _PART_FIELDS:
        _check_object(part.get(kind), f"{path}.{kind}", *_PART_FIELDS[kind])
    if kind == "file":
        for name in _FILE_FIELDS:
            if not isinstance(part["file"].get(name), str | None):
                _refuse(f"{path}.file.{name}", "it must be a string or null")


def _check_object(value: Any, path: str, *names: str) -> None:
    if not isinstance(value, dict):
        _refuse(path, "it must be an object")
    _check_strings(value, path, *names)


def _check_strings(value: dict[str, Any], path: str, *names: str) -> None:
    for name in names:
        if not isinstance(value.get(name), str):
            _refuse(f"{path}.{name}", "it must be a string")


def _check_size(message: dict[str, Any], path: str) -> None:
    limit = MAX_ANSWER_BYTES if message["role"] == "assistant" else MAX_ITEM_BYTES
    content = message.get("content")
    if isinstance(content, str) and len(message) == 2 and len(content) < limit // MAX_ESCAPED_BYTES:
        return  # most messages return here, without being encoded
    if len(msgspec.json.encode(message)) > limit:
        raise ApiError(413, f"`{path}` is larger than {limit} bytes.", code="item_too_large", param=path)


def _refuse(param: str, problem: str) -> NoReturn:
    raise ApiError(400, f"Invalid `{param}`: {problem}.", code="invalid_value", param=param)
