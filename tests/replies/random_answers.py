"""Random answers of a provider, as stream parts."""

from typing import Any

from hypothesis import strategies as st

from replies.provider.stream_parts import ItemDelta, ItemDone, ItemStarted, PartStarted, StreamPart

MESSAGE = {"type": "message", "role": "assistant"}
CITED = {
    "type": "output_text",
    "annotations": [{"type": "url_citation", "url": "https://x", "title": "X", "start_index": 0, "end_index": 1}],
}

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)
deltas = st.lists(texts.map(ItemDelta), max_size=3)


def parts_of_kinds(*kinds: str) -> st.SearchStrategy[list[StreamPart]]:
    """Up to two parts of these kinds, each with its deltas."""
    part = st.tuples(st.sampled_from(kinds).map(PartStarted), deltas)

    def flat(parts: list[tuple[PartStarted, list[ItemDelta]]]) -> list[StreamPart]:
        stream_parts: list[StreamPart] = []
        for started, deltas in parts:
            stream_parts.append(started)
            stream_parts.extend(deltas)
        return stream_parts

    return st.lists(part, max_size=2).map(flat)


message_parts = st.tuples(deltas, parts_of_kinds("output_text", "refusal")).map(lambda parts: [*parts[0], *parts[1]])
messages = st.tuples(
    st.sampled_from([MESSAGE, {**MESSAGE, "phase": "commentary"}]).map(ItemStarted),
    message_parts,
    st.none() | st.just(ItemDone({"content": [{"type": "output_text", "text": ""}]})),
)
cited = st.tuples(
    st.just(ItemStarted(MESSAGE)),
    texts.map(lambda text: [ItemDelta(text)]),
    st.none(),
).map(lambda parts: (parts[0], parts[1], ItemDone({"content": [{**CITED, "text": parts[1][0].text}]})))
functions = st.tuples(
    st.just(ItemStarted({"type": "function_call", "call_id": "call_1", "name": "f"})), deltas, st.none()
)
customs: st.SearchStrategy[Any] = st.tuples(
    st.just(ItemStarted({"type": "custom_tool_call", "call_id": "call_2", "name": "g"})),
    st.just([]),
    texts.map(lambda text: ItemDone({"input": text})),
)
reasonings = st.tuples(
    st.just(ItemStarted({"type": "reasoning"})),
    st.tuples(deltas, parts_of_kinds("reasoning_text"), parts_of_kinds("summary_text"), st.booleans()).map(
        lambda parts: [*parts[2], *parts[1]] if parts[3] else [*parts[0], *parts[1], *parts[2]]
    ),
    st.none() | st.just(ItemDone({"encrypted_content": "x", "summary": [{"type": "summary_text", "text": "s"}]})),
)
searches: st.SearchStrategy[Any] = st.tuples(
    st.just(ItemStarted({"type": "web_search_call", "status": "in_progress"})),
    st.just([]),
    st.just(ItemDone({"status": "completed", "action": {"type": "search", "query": "q"}})),
)
answers = st.lists(st.one_of(messages, cited, functions, customs, reasonings, searches), max_size=3).map(
    lambda items: [part for started, deltas, done in items for part in (started, *deltas, done) if part is not None]
)
