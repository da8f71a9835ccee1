"""The hashes by which a transcript is recognised.

Pure.

A chain's hash covers the normalized items of a prefix. Clients change some details by accident. These are
ignored: key order, empty fields, one text part instead of a string, types of text parts, outer white space, the
fields in `_NOT_HASHED`, and how a call's arguments are written. In an answer, thoughts (`<think>…</think>`) and the
division into parts are ignored too. Chat messages have no reasoning and no calls that the provider runs itself. So
reasoning and such calls are not hashed. An empty answer before a call is not hashed either.

An exact hash covers whole messages as JSON values. Only the order of keys is ignored.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from context.transcripts.chat_messages import answer_message, items_of
from domain.commands import Prefix
from domain.items import Item, type_of

_TEXT_PARTS = frozenset({"input_text", "output_text", "text"})
_NOT_HASHED = frozenset(
    {*("id", "status", "annotations", "logprobs", "cache_control"), *("refusal", "audio", "function_call", "phase")}
)
"""Fields that clients add or drop. A refusal with text is a part, so it is hashed."""

_NOT_HASHED_TYPES = frozenset(
    {
        *("reasoning", "web_search_call", "file_search_call", "code_interpreter_call", "image_generation_call"),
        *("mcp_list_tools", "mcp_call"),
    }
)

_THOUGHT_TAG = re.compile(r"<(?P<closes>/?)(?P<name>think(?:ing(?:-content-[0-9a-f]{32})?)?)>")
"""The tags around thoughts. aider writes the form with `content`."""


def _number(text: str) -> float:
    value = float(text)
    return int(value) if value.is_integer() else value


_encode = msgspec.json.Encoder(order="sorted").encode
_decode_arguments = msgspec.json.Decoder(float_hook=_number).decode


class HashedItem(Struct, frozen=True, gc=False):
    hash: bytes
    is_call: bool
    is_empty_answer: bool


class Chain(Struct, frozen=True, gc=False):
    """The hash of a prefix's items.

    `last`: the hash of the last item alone; empty if there is none. `seed`: the hash of the tenant, the subject and the
    user. `before_empty`: the chain before an empty answer. A call after the empty answer continues from this chain.
    """

    hash: bytes
    last: bytes
    seed: bytes
    before_empty: "Chain | None" = None


class TranscriptEnd(Struct, frozen=True):
    """The end of a request's transcript. The hashes of the request's answer continue from `chain`."""

    chain: Chain
    messages: int
    exact: bytes
    response_id: str
    read_version: int | None = None


_NOTHING = Chain(b"", b"", b"")


def first_chain(tenant: str, subject: str, user: str | None) -> Chain:
    """`user`: `safety_identifier` or `user` of the request."""
    seed = _hash("transcript", tenant.encode(), subject.encode(), (user or "").encode())
    return Chain(seed, b"", seed)


def next_chain(chain: Chain, item: Item) -> Chain:
    """The chain after one more item; unchanged if the item is not hashed."""
    return chain_after(chain, hashed_item(item))


def chain_after(chain: Chain, hashed: HashedItem | None) -> Chain:
    if hashed is None:
        return chain
    before = chain
    if chain.before_empty is not None and hashed.is_call:
        before = chain.before_empty
    return Chain(
        hashlib.sha256(before.hash + hashed.hash).digest(),
        hashed.hash,
        chain.seed,
        replace(before, before_empty=None) if hashed.is_empty_answer else None,
    )


def hashed_item(item: Item) -> HashedItem | None:
    if (normalized := _normalized(item)) is None:
        return None
    digest = hashlib.sha256(_encode(normalized)).digest()
    return HashedItem(digest, normalized[0].endswith("_call"), _is_empty_answer(normalized))


def chains_of(chain: Chain, items: Iterable[Item]) -> list[Chain]:
    chains: list[Chain] = []
    for item in items:
        chain = next_chain(chain, item)
        chains.append(chain)
    return chains


def is_hashed(item: Item) -> bool:
    return type_of(item) not in _NOT_HASHED_TYPES


def is_of_answer(item: Item) -> bool:
    kind = type_of(item)
    return item.get("role") == "assistant" if kind == "message" else kind.endswith("_call")


def text_of_message(items: Iterable[Item]) -> str:
    texts = [part for item in items if type_of(item) == "message" for part in (_normalized(item) or [[]])[-1]]
    return "\n".join(part for part in texts if isinstance(part, str))


def message_hash(items: Iterable[Item]) -> bytes:
    """Does not depend on the items before the message."""
    return hash_of_all(map(hashed_item, items))


def hash_of_all(hashed_items: Iterable[HashedItem | None]) -> bytes:
    chain = _NOTHING
    for hashed in hashed_items:
        chain = chain_after(chain, hashed)
    return chain.hash


def turn_hash(chain: Chain, answer: Iterable[Item]) -> bytes:
    """The hash of an answer and the item before it."""
    return _hash("turn", chain.seed, chain.last, message_hash(answer))


def answer_hash(chain: Chain, answer: Iterable[Item]) -> bytes:
    """Depends on the tenant, the subject and the user, not on the items before the answer."""
    return _hash("turn", chain.seed, b"", message_hash(answer))


def name_hash(tenant: str, subject: str, name: str) -> bytes:
    """The hash of a name that a client gave to a conversation."""
    return _hash("name", tenant.encode(), subject.encode(), name.encode())


def next_exact(exact: bytes, digest: bytes) -> bytes:
    return hashlib.sha256(exact + digest).digest()


def exact_hashes(digests: Iterable[bytes], exact: bytes = b"") -> list[bytes]:
    """For each message, the hash of this message and of all messages before it."""
    return [exact := next_exact(exact, digest) for digest in digests]


def name_prefix(hashed_name: bytes, item_id: str, response_id: str) -> Prefix:
    """The prefix by which a client's name for a conversation is found."""
    return Prefix(item_id=item_id, hash=hashed_name, answered=True, response_id=response_id)


def answer_prefixes(end: TranscriptEnd, output: Sequence[tuple[str, Item]]) -> tuple[Prefix, ...]:
    """Clients send an answer back as one message. So the items of this message are hashed."""
    if not output:
        return ()
    answer = items_of(answer_message(item for _, item in output))
    chained = Prefix(
        item_id=output[-1][0],
        hash=chains_of(end.chain, answer)[-1].hash,
        answered=True,
        response_id=end.response_id,
        messages=end.messages,
        exact=end.exact,
        read_version=end.read_version,
    )
    alone = [turn_hash(end.chain, answer)] + ([answer_hash(end.chain, answer)] if not is_empty_answer(answer) else [])
    return (chained, *(replace(chained, hash=hashed, messages=0, exact=b"") for hashed in dict.fromkeys(alone)))


def output_prefixes(
    chain: Chain, response_id: str, output: Sequence[tuple[str, Item]], read_version: int | None
) -> tuple[Prefix, ...]:
    """Clients send the items of a Response back one by one."""
    after = chains_of(chain, (item for _, item in output))
    if not after or after[-1] is chain:
        return ()
    return (
        Prefix(
            item_id=output[-1][0],
            hash=after[-1].hash,
            answered=True,
            response_id=response_id,
            read_version=read_version,
        ),
    )


def _hash(domain: str, *values: bytes) -> bytes:
    """The length of each value is hashed too, so that different lists of values have different hashes."""
    digest = hashlib.sha256(domain.encode())
    for value in values:
        digest.update(len(value).to_bytes(8))
        digest.update(value)
    return digest.digest()


def _normalized(item: Item) -> list[Any] | None:
    match kind := type_of(item):
        case "message":
            parts = _answer_parts if item.get("role") == "assistant" else _parts
            return [kind, item.get("role"), parts(item.get("content"))]
        case "function_call":
            return [kind, item.get("call_id"), item.get("name"), _arguments(item.get("arguments"))]
        case "function_call_output" | "custom_tool_call_output":
            return ["output", item.get("call_id"), _parts(item.get("output"))]
        case _:
            return None if kind in _NOT_HASHED_TYPES else [kind, _fields(item)]


def is_empty_answer(answer: Sequence[Item]) -> bool:
    return all((normalized := _normalized(item)) is None or _is_empty_answer(normalized) for item in answer)


def _is_empty_answer(normalized: list[Any]) -> bool:
    return normalized[0] == "message" and normalized[1] == "assistant" and not normalized[2]


def _parts(content: Any) -> list[Any]:
    if content is None or isinstance(content, str):
        return [text] if (text := (content or "").strip()) else []
    parts = (_part(part) for part in content)
    return [part for part in parts if part]


def _part(part: Any) -> Any:
    if (text := _text_of(part)) is not None:
        return text.strip()
    if not isinstance(part, dict):
        return part
    if part.get("type") == "refusal":
        return ["refusal", str(part.get("refusal") or "").strip()]
    fields = _fields(part)
    if fields.get("detail") == "auto":
        del fields["detail"]
    return fields


def _text_of(part: Any) -> str | None:
    text = part.get("text") if isinstance(part, dict) and part.get("type") in _TEXT_PARTS else None
    return text if isinstance(text, str) else None


def _answer_parts(content: Any) -> list[Any]:
    """The texts are joined, because clients join them."""
    texts, others = [], []
    for part in [content or ""] if content is None or isinstance(content, str) else content:
        text = part if isinstance(part, str) else _text_of(part)
        if text is None:
            others.append(_part(part))
        else:
            texts.append(text)
    joined = _without_thoughts("".join(texts)).strip()
    return [*([joined] if joined else []), *others]


def _without_thoughts(text: str) -> str:
    """Tags are searched one by one, because a pattern for whole blocks could take quadratic time."""
    if "<think" not in text:
        return text
    kept: list[str] = []
    position = 0
    opened: re.Match[str] | None = None
    for tag in _THOUGHT_TAG.finditer(text):
        if opened is None and not tag["closes"]:
            opened = tag
        elif opened is not None and tag["closes"] and tag["name"] == opened["name"]:
            kept.append(text[position : opened.start()])
            position, opened = tag.end(), None
    return "".join((*kept, text[position:]))


def _arguments(arguments: Any) -> Any:
    if not isinstance(arguments, str):
        return arguments
    if not arguments.strip():
        return [{}]
    try:
        return [_decode_arguments(arguments)]
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return arguments


def _fields(value: Item) -> Item:
    return {name: field for name, field in _without_empty(value).items() if name not in _NOT_HASHED}


def _without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        fields = {name: _without_empty(field) for name, field in value.items()}
        return {name: field for name, field in fields.items() if field is not None and field not in ("", [], {})}
    if isinstance(value, list):
        return [_without_empty(entry) for entry in value]
    return value
