"""The hashes of a transcript's prefixes.

The chain hash of a prefix stays the same if a client changes only the form of a message. It differs if the meaning
changes. The exact hash changes with everything but the order of keys.
"""

import json
import time
from collections.abc import Callable
from itertools import product
from threading import Thread
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from context.transcripts.chat_messages import answer_message
from context.transcripts.known_messages import KnownMessages, digest_of, sent_messages
from context.transcripts.parsed import ParsedTranscript, input_prefixes, parsed, transcript_end
from context.transcripts.prefix_hashes import (
    answer_hash,
    answer_prefixes,
    chains_of,
    first_chain,
    message_hash,
    name_hash,
    name_prefix,
    next_chain,
    next_exact,
    turn_hash,
)

Json = dict[str, Any]

FIRST = first_chain("tenant", "subject", None)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0<"), max_size=20)
numbers = st.integers(-(10**6), 10**6) | st.floats(-1e6, 1e6)
arguments = st.dictionaries(
    texts, st.none() | st.booleans() | numbers | texts | st.lists(texts, max_size=2), max_size=3
)


@st.composite
def messages_and_the_same_again(draw: st.DrawFn) -> tuple[Json, Json]:
    """A chat message, and the same message in another form that a client might send."""
    space = st.sampled_from(["", " ", "\n", "\r\n\t "])

    def content(text: str) -> Any:
        padded = draw(space) + text + draw(space)
        return padded if draw(st.booleans()) else [{"type": "text", "text": padded}]

    def dressed(message: Json, *names: str) -> Json:
        nulls: Json = {name: draw(st.sampled_from([None, [], ""])) for name in names if draw(st.booleans())}
        fields = list({**nulls, **message}.items())
        return dict(draw(st.permutations(fields)))

    text = draw(texts)
    match draw(st.sampled_from(["user", "assistant", "calls", "tool"])):
        case "user":
            return {"role": "user", "content": text}, dressed({"role": "user", "content": content(text)}, "name")
        case "assistant":
            thought = draw(
                st.sampled_from(
                    [
                        "",
                        "<think>well</think>\n",
                        "<think>\n\n</think>",
                        f"<thinking-content-{'0' * 32}>a</thinking-content-{'0' * 32}>",
                    ]
                )
            )
            one = {"role": "assistant", "content": text}
            return one, dressed(
                {"role": "assistant", "content": content(thought + text)},
                *("refusal", "tool_calls", "annotations", "audio", "function_call"),
            )
        case "calls":
            given_arguments = draw(arguments)
            calls = [
                {"id": "a", "type": "function", "function": {"name": "f", "arguments": json.dumps(given_arguments)}}
            ]
            rewritten = json.dumps(
                given_arguments, indent=draw(st.sampled_from([None, 2])), sort_keys=draw(st.booleans())
            )
            call = {"function": {"arguments": rewritten, "name": "f"}, "type": "function", "id": "a"}
            return (
                {"role": "assistant", "content": None, "tool_calls": calls},
                dressed({"role": "assistant", "tool_calls": [call]}, "content", "refusal", "audio"),
            )
        case _:
            return (
                {"role": "tool", "tool_call_id": "a", "content": text},
                dressed({"role": "tool", "tool_call_id": "a", "content": content(text)}),
            )


def of(messages: list[Json], user: str | None = None) -> ParsedTranscript:
    return parsed(sent_messages(messages), tenant="tenant", subject="subject", user=user)


def last_hash(*messages: Json) -> bytes:
    return of([OUTPUT, *messages]).chains[-1].hash


@settings(max_examples=100)
@given(st.lists(messages_and_the_same_again(), min_size=1, max_size=6))
def test_hashes_stay_the_same_if_clients_change_only_the_form(
    pairs: list[tuple[Json, Json]],
) -> None:
    one, other = of([one for one, _ in pairs]), of([other for _, other in pairs])

    assert [chain.hash for chain in one.chains] == [chain.hash for chain in other.chains]
    assert [one.hash_of(at) for at in range(len(one.ends))] == [other.hash_of(at) for at in range(len(other.ends))]


USER, ANSWER = {"role": "user", "content": "a  b"}, {"role": "assistant", "content": "a  b"}
CALL = {
    "role": "assistant",
    "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}],
}
OUTPUT = {"role": "tool", "tool_call_id": "a", "content": "a"}
IMAGE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}


def changed(message: Json, change: Callable[[Any], object]) -> Json:
    copy: Json = msgspec.json.decode(msgspec.json.encode(message))
    change(copy)
    return copy


DIFFERENT: list[Json] = [
    *(USER, ANSWER, CALL, OUTPUT, IMAGE),
    {**USER, "content": "a b"},
    {**USER, "content": "A  b"},
    {**USER, "content": "a  b<think>x</think>"},
    {**USER, "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    {**USER, "content": [{"type": "text", "text": "b"}, {"type": "text", "text": "a"}]},
    {**USER, "role": "system"},
    {**USER, "content": ""},
    {**ANSWER, "content": "a  b</think>"},
    {**ANSWER, "content": "<think>a  b"},
    {**ANSWER, "content": "<think>x</thinking>a  b"},
    {**ANSWER, "content": "x</think>a  b<think>"},
    {**ANSWER, "content": None, "refusal": "a  b"},
    changed(CALL, lambda call: call["tool_calls"][0].update(id="b")),
    changed(CALL, lambda call: call["tool_calls"][0]["function"].update(name="g")),
    changed(CALL, lambda call: call["tool_calls"][0]["function"].update(arguments='{"x": 2}')),
    changed(CALL, lambda call: call["tool_calls"][0]["function"].update(arguments='{"x": "1"}')),
    changed(CALL, lambda call: call["tool_calls"][0]["function"].update(arguments="{'x': 1}")),
    changed(CALL, lambda call: call["tool_calls"][0]["function"].update(arguments="[" * 100_000)),
    changed(CALL, lambda call: call["tool_calls"][0]["function"].update(arguments="")),
    changed(CALL, lambda call: call.update(content="a")),
    {**OUTPUT, "tool_call_id": "b"},
    {**OUTPUT, "content": "b"},
    changed(IMAGE, lambda image: image["content"][0]["image_url"].update(url="data:image/png;base64,AAAB")),
    changed(IMAGE, lambda image: image["content"][0]["image_url"].update(detail="low")),
]


def test_messages_with_another_meaning_have_another_hash() -> None:
    hashes = [last_hash(message) for message in DIFFERENT]

    assert len(set(hashes)) == len(DIFFERENT)
    assert last_hash(USER, ANSWER) != last_hash(ANSWER, USER)
    assert last_hash(USER, ANSWER) != last_hash(ANSWER)
    assert last_hash(USER, USER) != last_hash(USER)


def test_a_part_has_the_same_hash_in_both_apis() -> None:
    def item(**part: Any) -> bytes:
        return message_hash([{"type": "message", "role": "user", "content": [part]}])

    assert (
        item(type="text", text="a") == item(type="input_text", text="a") == item(type="input_text", text=" a", id="x")
    )
    assert item(type="input_text", text="a") == item(type="text", text="a", cache_control={"type": "ephemeral"})
    assert item(type="input_image", image_url="u") == item(
        type="input_image", image_url="u", detail="auto", file_id=None
    )
    answer = {"role": "assistant", "content": "ab"}
    parts = [
        {"type": "output_text", "text": "a", "annotations": []},
        {"type": "output_text", "text": "b", "logprobs": []},
    ]
    assert message_hash([answer]) == message_hash([{**answer, "content": parts, "id": "msg_1", "status": "completed"}])
    call = {"type": "custom_tool_call", "call_id": "a", "name": "n", "input": "i"}
    assert message_hash([call]) == message_hash([{**call, "id": "ctc_1", "status": "completed", "namespace": None}])
    assert message_hash([call]) != message_hash([{**call, "input": "j"}])


def test_numbers_in_arguments_are_compared_by_their_value() -> None:
    def call(text: str) -> bytes:
        return message_hash([{"type": "function_call", "call_id": "a", "name": "f", "arguments": text}])

    assert call('{"x": 1.0}') == call('{"x":1}') == call('{"x":1e0}')
    assert call('{"x": 1.5}') != call('{"x": 1}')
    assert call("") == call("{}") == call(" { } ")
    assert call('{"x": 1e999}') == call('{"x": 1e999}')


def test_no_two_tenants_subjects_or_users_share_a_hash() -> None:
    words = ["", "a", "ab", "b", "1", "\x00", "a\x00"]
    seeds = [first_chain(tenant, subject, user) for tenant, subject, user in product(words, words, words)]
    item = {"type": "message", "role": "user", "content": "hi"}
    after = [next_chain(seed, item) for seed in seeds]

    assert len({chain.hash for chain in after}) == len(words) ** 3
    assert len({turn_hash(chain, [item]) for chain in after} | {chain.hash for chain in after}) == 2 * len(words) ** 3
    assert len({name_hash(tenant, subject, "n") for tenant, subject in product(words, words)}) == len(words) ** 2
    assert first_chain("a", "b", None) == first_chain("a", "b", "")


def test_reasoning_and_calls_that_the_provider_runs_change_nothing() -> None:
    chain = next_chain(FIRST, {"role": "user", "content": "hi"})

    for kind in ("reasoning", "web_search_call", "mcp_call"):
        assert next_chain(chain, {"type": kind, "summary": []}) is chain


@pytest.mark.parametrize("content", ["", " \n", "<think>first I …</think>\n\n", []])
def test_an_empty_answer_before_a_call_is_not_hashed(content: Any) -> None:
    user = {"type": "message", "role": "user", "content": "hi"}
    empty = {"type": "message", "role": "assistant", "content": content}
    call = {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "a", "output": "1"}

    with_it, without = chains_of(FIRST, [user, empty, call, output]), chains_of(FIRST, [user, call, output])

    assert [chain.hash for chain in with_it[2:]] == [chain.hash for chain in without[1:]]
    assert message_hash([empty, call]) == message_hash([call])
    alone = chains_of(FIRST, [user, empty])
    assert alone[1].hash != alone[0].hash
    assert chains_of(FIRST, [user, empty, user])[2].hash != chains_of(FIRST, [user, user])[1].hash


def test_the_exact_hash_changes_with_everything_but_the_order_of_keys() -> None:
    exact = next_exact(b"", digest_of({"role": "user", "content": "a"}))

    assert exact == next_exact(b"", digest_of({"content": "a", "role": "user"}))
    for other in (
        {"role": "user", "content": "a "},
        {"role": "user", "content": "a", "name": None},
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
    ):
        assert exact != next_exact(b"", digest_of(other))
    assert next_exact(exact, digest_of(USER)) != next_exact(b"", digest_of(USER))


def test_instructions_at_the_beginning_are_not_hashed() -> None:
    system, developer = {"role": "system", "content": "It is Monday."}, {"role": "developer", "content": "Be brief."}

    with_instructions = of([system, developer, USER, system, ANSWER])

    assert [msgspec.json.decode(text) for text in with_instructions.instructions] == [system, developer]
    assert with_instructions.messages == [USER, system, ANSWER]
    assert list(with_instructions.ends) == [1, 2, 3]
    assert with_instructions.chains == of([USER, system, ANSWER]).chains
    assert with_instructions.chains[-1] != of([USER, ANSWER]).chains[-1]
    assert not of([system]).chains
    assert not of([system]).exact


def test_there_is_a_prefix_for_each_new_message() -> None:
    two_calls = changed(CALL, lambda call: call["tool_calls"].append({**call["tool_calls"][0], "id": "b"}))
    transcript = of([USER, {**two_calls, "content": "Look:"}, OUTPUT])
    chains, exact = transcript.chains, transcript.exact

    prefixes = input_prefixes(transcript, 1, ["m", "x", "y", "z"], "resp_1", answered=True, read_version=7)

    assert [prefix.item_id for prefix in prefixes] == ["y", "z"]
    assert [prefix.hash for prefix in prefixes] == [chains[3].hash, chains[4].hash]
    assert [(prefix.messages, prefix.exact) for prefix in prefixes] == [(2, exact[1]), (3, exact[2])]
    assert all((prefix.answered, prefix.response_id, prefix.read_version) == (True, "resp_1", 7) for prefix in prefixes)
    (chunk,) = input_prefixes(transcript, 0, ["u", "m"], None, answered=False)
    assert (chunk.item_id, chunk.hash, chunk.messages, chunk.exact) == ("u", chains[0].hash, 0, b"")
    assert not chunk.answered


@pytest.mark.parametrize("shape", ["text", "calls", "call before text"])
def test_an_answer_has_the_prefixes_of_the_message_that_clients_send_back(shape: str) -> None:
    transcript = of([USER])
    text = {
        "type": "message",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "x", "annotations": []}],
    }
    call = {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"}
    outputs: dict[str, list[Json]] = {
        "text": [{"type": "reasoning", "summary": []}, text],
        "calls": [text, call, {**call, "call_id": "b"}, {"type": "web_search_call", "id": "ws"}],
        "call before text": [call, text],
    }
    output = outputs[shape]
    end = transcript_end(transcript, "resp_1", read_version=7)

    chained, turn, alone = answer_prefixes(end, [(f"item_{n}", item) for n, item in enumerate(output)])

    sent = {**answer_message(output), "extra": 1}
    back = of([USER, sent, USER])
    answer = back.message_items(1)
    assert {prefix.item_id for prefix in (chained, turn, alone)} == {f"item_{len(output) - 1}"}
    assert (chained.hash, chained.messages, chained.exact) == (
        back.chains[back.ends[1] - 1].hash,
        1,
        transcript.exact[0],
    )
    assert (turn.hash, alone.hash) == (turn_hash(back.chains[0], answer), answer_hash(back.first, answer))
    assert {(prefix.messages, prefix.exact) for prefix in (turn, alone)} == {(0, b"")}
    assert all(
        (prefix.answered, prefix.response_id, prefix.read_version) == (True, "resp_1", 7) for prefix in (chained, turn)
    )


def test_an_empty_answer_has_no_hash_of_its_own() -> None:
    end = transcript_end(of([USER]), "resp_1")
    empty = {"type": "message", "role": "assistant", "content": "<think>x</think>"}

    assert len(answer_prefixes(end, [("e", empty)])) == 2
    assert answer_prefixes(end, []) == ()


def test_a_name_is_mapped_to_an_item() -> None:
    name = name_prefix(name_hash("t", "s", "n"), "msg_1", "resp_1")

    assert (name.item_id, name.hash, name.answered) == ("msg_1", name_hash("t", "s", "n"), True)


def test_many_thoughts_do_not_take_quadratic_time() -> None:
    start = time.perf_counter()
    last_hash({"role": "assistant", "content": "<think>" * 300_000})
    last_hash({"role": "assistant", "content": "<think></think>" * 100_000})
    assert time.perf_counter() - start < 20


def test_hashes_are_the_same_with_and_without_known_messages() -> None:
    messages = [{"role": "system", "content": "s"}, USER, ANSWER, *([USER, ANSWER] * 20)]
    cached = KnownMessages(max_messages=10)
    arguments: dict[str, Any] = {"tenant": "t", "subject": "s", "user": None}
    expected = parsed(sent_messages(messages), **arguments)
    for _ in range(3):
        assert parsed(sent_messages(messages), known_messages=cached, **arguments) == expected
    many = [{"role": "user", "content": str(number)} for number in range(100)]
    parsed(sent_messages(many), known_messages=cached, **arguments)
    assert sum(cached.get(digest_of(message)) is not None for message in many) in range(9, 11)


def test_hashes_are_the_same_with_and_without_known_transcripts() -> None:
    """Transcripts are continued, repeated, edited, sent without their first messages, and sent by another subject."""
    turns = [{"role": ("user", "assistant")[number % 2], "content": str(number)} for number in range(40)]
    cached, few = KnownMessages(), KnownMessages(max_messages=30)
    edited = [*turns[:11], {"role": "assistant", "content": "edited"}, *turns[12:20]]
    sent: tuple[list[dict[str, str]], ...] = (
        turns[:5],
        turns[:9],
        turns[:9],
        turns[:21],
        edited,
        turns[:7],
        turns[2:21],
        turns,
        turns[:5],
        [],
    )
    for messages in sent:
        for subject in ("s", "other"):
            for leading in ((), ({"role": "system", "content": messages[-1]["content"] if messages else "s"},)):
                request = sent_messages([*leading, *messages])
                expected = parsed(request, tenant="t", subject=subject, user=None)
                for kept in (cached, few):
                    repeated = sent_messages([*leading, *messages], kept)
                    assert (repeated.digests, repeated.exact) == (request.digests, request.exact)
                    assert parsed(repeated, tenant="t", subject=subject, user=None, known_messages=kept) == expected


def test_the_earlier_messages_of_a_continued_transcript_are_known() -> None:
    turns = [{"role": ("user", "assistant")[number % 2], "content": str(number)} for number in range(60)]
    system = [{"role": "system", "content": "today"}]
    cached = KnownMessages(max_messages=100)

    def are_known(messages: list[dict[str, str]]) -> list[bool]:
        sent = sent_messages(messages, cached)
        is_known = bool(cached.longest_prefix(sent.keys).exact)
        parsed(sent, tenant="t", subject="s", user=None, known_messages=cached)
        assert not is_known or cached.longest_prefix(sent.keys).exact == sent.exact
        return [is_known, *sent.are_known]

    assert are_known(turns[:40]) == [False] * 41
    assert are_known([*system, *turns[:42]]) == [True, False, *[True] * 40, False, False]
    assert are_known([*turns[:42], *turns[44:46]]) == [True, *[True] * 42, False, False]
    edited = [*turns[:20], {"role": "user", "content": "edited"}, *turns[21:42]]
    assert are_known(edited) == [False, *[True] * 20, False, *[True] * 21]
    assert are_known([{**turns[0], "name": "ann"}, *turns[1:42]])[:3] == [False, False, True]
    # The longer transcript replaced this one.
    assert not cached.longest_prefix(sent_messages(turns[:42], cached).keys).exact


class KeyDroppedAfterOneLookup(bytes):
    """Before the second lookup, runs `drop` in another thread."""

    drop: Callable[[], None]
    lookups = 0

    def __hash__(self) -> int:
        self.lookups += 1
        if self.lookups == 2:
            thread = Thread(target=self.drop)
            thread.start()
            thread.join()
        return super().__hash__()


def test_a_prefix_is_found_although_another_thread_drops_it() -> None:
    cached = KnownMessages()
    turns = [{"role": ("user", "assistant")[number % 2], "content": str(number)} for number in range(42)]
    earlier, continued = sent_messages(turns[:40]), sent_messages(turns)
    cached.add_prefix(earlier)
    key = KeyDroppedAfterOneLookup(earlier.keys[-1])
    key.drop = lambda: cached.add_prefix(continued)

    assert cached.longest_prefix([key]).exact == earlier.exact
    key.drop()
    assert not cached.longest_prefix([earlier.keys[-1]]).exact


def test_the_oldest_of_too_many_known_transcripts_are_dropped() -> None:
    cached = KnownMessages(max_messages=10)
    sent = [sent_messages([{"role": "user", "content": f"{chat}.{number}"} for number in range(4)]) for chat in "abc"]
    for one in sent:
        parsed(one, tenant="t", subject="s", user=None, known_messages=cached)

    seed = first_chain("t", "s", None).seed
    assert [len(cached.take_transcript(seed, one.exact).ends) for one in sent] == [0, 4, 4]
    assert [len(cached.take_transcript(seed, one.exact).ends) for one in sent] == [0, 0, 0]
