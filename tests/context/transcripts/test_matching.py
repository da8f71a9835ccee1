"""Where a transcript continues. The client may have changed the transcript, and items may be deleted."""

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from context.transcripts.matching import Match
from domain.commands import AppendItems, DeleteConversation, NewItem, RetractItem, ShareConversation
from domain.events import Share, TranscriptBase
from domain.items import as_stored
from infrastructure.access.principal import SCOPES, Principal
from infrastructure.event_log.reader import EventReader
from infrastructure.ids import mint
from infrastructure.settings import Settings
from infrastructure.stores.postgres import make_pool
from tests.context.transcripts.asking import Asking, assistant, turns, user
from tests.event_log.appending import open_log, request, start
from tests.log import Log

BOB = Principal("acme", "bob", SCOPES - {"admin"})


@pytest.fixture
async def chats(settings: Settings) -> AsyncIterator[Asking]:
    pool = make_pool(settings.postgres_url)
    await pool.open()
    async with open_log(settings.postgres_url) as events:
        yield Asking(events, EventReader(pool), Log(settings.postgres_url))
    await pool.close()


def end_of(match: Match | None) -> tuple[str, int] | None:
    return (match.item_id, match.messages) if match else None


def aligned_ids(match: Match | None) -> list[list[str]]:
    assert match is not None
    return [[item_id for item_id, _ in items] for items in match.aligned]


async def test_a_longer_transcript_matches_at_its_last_stored_answer(chats: Asking) -> None:
    first = await chats.ask(turns("one"), "two")
    second = await chats.ask(turns("one", " two\n", "three"), "four")
    match = await chats.match([*turns("one", " two\n", "three"), {**assistant("four"), "refusal": None}, user("five")])

    assert first.match is None
    assert second.conversation_id == first.conversation_id
    assert second.match is not None
    assert (second.match.item_id, second.match.depth, second.match.messages, second.match.items) == (
        first.answer_id,
        *(2, 2, 2),
    )
    assert second.match.answered
    assert second.match.base == TranscriptBase(
        conversation_id=first.conversation_id, response_id=first.response_id, count=1
    )
    assert aligned_ids(second.match) == [[], [first.answer_id]]
    assert match is not None
    assert end_of(match) == (second.answer_id, 4)
    assert match.base == TranscriptBase(conversation_id=first.conversation_id, response_id=second.response_id, count=3)
    assert aligned_ids(match) == [[], [], [], [second.answer_id]]
    assert match.read_version == len(chats.log.versions(first.conversation_id))
    assert len(chats.items(first.conversation_id)) == 4


async def test_a_transcript_without_an_answer_begins_a_conversation(chats: Asking) -> None:
    turn = [await chats.ask(turns("hi"), "hello") for _ in range(2)]

    assert [one.match for one in turn] == [None, None]
    assert await chats.match([{"role": "system", "content": "s"}, user("hi")]) is None
    assert await chats.match([]) is None


async def test_a_transcript_without_an_answer_of_ours_begins_a_conversation(chats: Asking) -> None:
    turn = await chats.ask(turns("imported", "of another store", "more"), "ours")

    assert await chats.match(turns("imported", "of another store", "more")) is None
    assert await chats.match(turns("imported", "of another store", "else")) is None
    assert end_of(await chats.match(turns("imported", "of another store", "more", "ours", "?"))) == (turn.answer_id, 4)


async def test_a_transcript_never_matches_words_of_another_subject_end_user_or_tenant(chats: Asking) -> None:
    words = turns("hi", "hello", "more")
    await chats.chat("hi", "hello", end_user="one")
    conversation = (await chats.chat("hi", "hello")).conversation_id
    share = ShareConversation(share=Share(role="writer"))
    await chats.events.append(request(conversation, share))

    assert await chats.match(words, end_user="one") is not None
    assert await chats.match(words) is not None
    assert await chats.match(words, end_user="two") is None
    assert await chats.match(words, by=BOB) is None
    assert await chats.match(words, by=Principal("other", "ann", SCOPES)) is None
    own = await chats.chat("hi", "hello", by=BOB)
    assert end_of(await chats.match(words, by=BOB)) == (own.answer_id, 2)


async def test_a_transcript_that_differs_matches_at_the_last_common_message(chats: Asking) -> None:
    turn = await chats.chat("a", "b", "c", "d", "e", "f")
    ids = chats.items(turn.conversation_id)

    assert end_of(await chats.match(turns("a", "b", "c", "d", "edited"))) == (ids[3], 4)
    assert end_of(await chats.match(turns("a", "b", "c", "d", "e"))) == (ids[4], 5)
    assert end_of(await chats.match(turns("a", "b", "c"))) == (ids[2], 3)
    assert end_of(await chats.match(turns("a", "b", "c", "mine", "x"))) == (ids[2], 3)
    assert await chats.match(turns("edited", "b2", "c")) is None
    fork = await chats.ask(turns("a", "b", "x"), "y", forks=True)
    assert fork.conversation_id != turn.conversation_id
    assert end_of(await chats.match(turns("a", "b", "x", "y", "z"))) == (fork.answer_id, 4)
    assert end_of(await chats.match(turns("a", "b", "c", "d", "e", "f", "z"))) == (turn.answer_id, 6)


class TestBranches:
    """Transcripts that differ from stored messages are stored on branches of the same conversation."""

    async def test_a_transcript_is_compared_with_the_messages_of_one_path_at_a_time(self, chats: Asking) -> None:
        first = await chats.chat("a", "b", "c", "d")
        edited = await chats.ask(turns("a", "b", "x"), "y")
        last = await chats.ask(turns("a", "b", "x", "y", "z"), "w")
        ids = chats.items(first.conversation_id)

        assert {edited.conversation_id, last.conversation_id} == {first.conversation_id}
        assert end_of(last.match) == (edited.answer_id, 4)
        for match, end, path in (
            (await chats.match(turns("a", "b", "c", "d", "more")), (ids[3], 4), []),
            (await chats.match(turns("a", "b", "x", "y", "z", "w", "more")), (ids[7], 6), []),
            (await chats.match(turns("c", "d", "more")), (ids[3], 2), [ids[2], ids[3]]),
            (await chats.match(turns("x", "y", "z", "w", "more")), (ids[7], 4), [*ids[4:8]]),
            (await chats.match(turns("a", "B", "z", "w", "more")), (ids[7], 4), [None, None, *ids[6:8]]),
        ):
            assert end_of(match) == end
            if path:
                assert [each[0] if each else None for each in aligned_ids(match)] == path
        assert await chats.match(turns("c", "w", "more")) is None, "the question is on another path"

    async def test_the_base_of_a_match_is_an_earlier_request_on_the_same_path(self, chats: Asking) -> None:
        first = await chats.chat("a", "b", "c", "same")
        second = await chats.ask(turns("a", "b", "c"), "same")
        await chats.ask(turns("a", "b", "c", "same", "of the second"), "e")
        ids = chats.items(first.conversation_id)

        on_second = await chats.match(turns("a", "b", "c", "same", "of the second", "e", "f"))
        assert second.answer_id == ids[4]
        assert end_of(on_second) == (ids[6], 6)
        await chats.ask(turns("a", "b", "c", "same", "of both"), "g")
        for match in (on_second, await chats.match(turns("a", "b", "c", "same", "of both", "g", "h"))):
            assert match is not None
            assert match.base is not None
            assert match.base.count == 5

    async def test_a_rewritten_answer_is_found_among_several(self, chats: Asking) -> None:
        first = await chats.chat("a", "b", "c", "the first answer to it")
        second = await chats.ask(turns("a", "b", "c"), "another answer to it")

        for turn, text in ((first, "the first answer to it\n(noted)"), (second, "another answer to it\n(noted)")):
            assert end_of(await chats.match(turns("a", "b", "c", text, "more"))) == (turn.answer_id, 4)

    async def test_a_retracted_item_hides_only_its_own_branch(self, chats: Asking) -> None:
        first = await chats.chat("a", "b", "c", "d")
        await chats.ask(turns("a", "b", "x"), "y")
        ids = chats.items(first.conversation_id)
        await chats.events.append(request(first.conversation_id, RetractItem(item_id=ids[4])))

        assert end_of(await chats.match(turns("a", "b", "x", "y", "z"))) == (ids[1], 2)
        assert end_of(await chats.match(turns("a", "b", "c", "d", "z"))) == (ids[3], 4)

    async def test_a_transcript_is_compared_with_own_and_inherited_items_of_a_named_fork(self, chats: Asking) -> None:
        origin = await chats.chat("a", "b", "c", "d")
        await chats.ask(turns("a", "b", "x"), "y")
        await chats.ask(turns("a", "b", "x", "y", "e"), "f")
        ids = chats.items(origin.conversation_id)
        fork = await chats.ask(turns("a", "b", "x", "y", "z"), "w", forks=True)
        await chats.ask(turns("a", "b", "x", "y", "z", "w", "one"), "1")
        await chats.ask(turns("a", "b", "x", "y", "z", "w", "two"), "2")
        own = chats.items(fork.conversation_id)

        async def matched(*words: str) -> tuple[str, int] | None:
            return end_of(await chats.match(turns(*words), only_in=fork.conversation_id))

        assert await matched("a", "b", "x", "y", "other") == (ids[5], 4)
        assert await matched("a", "b", "c", "d", "other") == (ids[1], 2)
        assert await matched("a", "b", "x", "y", "e", "f", "other") == (ids[5], 4)
        assert await matched("a", "b", "x", "y", "z", "w", "one", "1", "more") == (own[3], 8)
        assert await matched("a", "b", "x", "y", "z", "w", "two", "2", "more") == (own[5], 8)


async def test_a_long_transcript_that_differs_early_matches_at_the_last_common_message(chats: Asking) -> None:
    turn = await chats.chat("a", "b")
    foreign = [text for number in range(20) for text in (f"q{number}", f"r{number}")]

    assert end_of(await chats.match(turns("a", "b", *foreign))) == (turn.answer_id, 2)


async def test_the_newest_of_equal_conversations_without_later_items_is_continued(chats: Asking) -> None:
    older, newer = [await chats.ask(turns("same"), "same answer") for _ in range(2)]
    words = turns("same", "same answer", "more")

    assert end_of(await chats.match(words)) == (newer.answer_id, 2)
    went_on = await chats.ask(words, "x")
    assert went_on.conversation_id == newer.conversation_id
    assert end_of(await chats.match(turns("same", "same answer", "else"))) == (older.answer_id, 2)


async def test_a_private_conversation_is_preferred_to_an_equal_shared_one(chats: Asking) -> None:
    """In the shared conversation, other people could read the new question."""
    private, shared = [await chats.ask(turns("same"), "same answer") for _ in range(2)]
    await chats.events.append(
        request(shared.conversation_id, ShareConversation(share=Share(role="reader", subject="bob")))
    )
    words = turns("same", "same answer", "more")

    went_on = await chats.ask(words, "x")
    assert went_on.conversation_id == private.conversation_id
    assert end_of(await chats.match(turns("same", "same answer", "else"))) == (private.answer_id, 2)
    await chats.events.append(request(private.conversation_id, DeleteConversation()))
    assert end_of(await chats.match(words)) == (shared.answer_id, 2)


CALLS: list[Any] = [
    {"type": "reasoning", "summary": []},
    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Look:", "annotations": []}]},
    *({"type": "function_call", "call_id": f"call_{n}", "name": "f", "arguments": "{}"} for n in "ab"),
]
SENT_CALLS = {
    "role": "assistant",
    "content": "Look:",
    "tool_calls": [
        {"id": f"call_{n}", "type": "function", "index": 0, "function": {"name": "f", "arguments": "{ }"}} for n in "ab"
    ],
}
OUTPUTS = [{"role": "tool", "tool_call_id": f"call_{n}", "content": n} for n in "ab"]


async def test_an_answer_with_calls_is_one_message(chats: Asking) -> None:
    turn = await chats.ask([user("?")], CALLS)
    match = await chats.match([user("?"), SENT_CALLS, *OUTPUTS])

    assert end_of(match) == (turn.answer_id, 2)
    ids = chats.items(turn.conversation_id)
    assert aligned_ids(match) == [[], [ids[2], ids[3], ids[4]]]
    went_on = await chats.ask([user("?"), SENT_CALLS, *OUTPUTS], "done")
    assert went_on.conversation_id == turn.conversation_id
    assert end_of(await chats.match([user("?"), SENT_CALLS, *OUTPUTS, assistant("done"), user("and?")])) == (
        went_on.answer_id,
        5,
    )
    # The transcript has only one of the two outputs. The match ends at this output.
    assert end_of(await chats.match([user("?"), SENT_CALLS, OUTPUTS[0]])) == (chats.items(turn.conversation_id)[5], 3)


async def test_a_transcript_whose_front_was_cut_off_matches_at_its_last_answer(chats: Asking) -> None:
    turn = await chats.chat("a", "b", "c", "d", "e", "f")
    ids = chats.items(turn.conversation_id)

    match = await chats.match(turns("c", "d", "e", "f", "new"))
    assert end_of(match) == (ids[5], 4)
    assert aligned_ids(match) == [[ids[2]], [ids[3]], [ids[4]], [ids[5]]]
    assert match is not None
    assert match.base is None
    assert end_of(await chats.match([assistant("f"), user("new")])) == (ids[5], 1)
    summary = user("What we said before: …")
    assert end_of(await chats.match([summary, *turns("e", "f", "new")])) == (ids[5], 3)
    assert end_of(await chats.match(turns("c", "d", "e"))) == (ids[4], 3), "regenerated: the question is there already"
    assert end_of(await chats.match(turns("c", "d", "edited"))) == (ids[3], 2)
    assert await chats.match(turns("x", "f", "new")) is None, "an answer alone says too little"

    went_on = await chats.ask(turns("c", "d", "e", "f", "new"), "newer")
    assert went_on.conversation_id == turn.conversation_id
    assert end_of(await chats.match(turns("c", "d", "e", "f", "new", "newer", "newest"))) == (went_on.answer_id, 6)
    assert end_of(await chats.match(turns("e", "f", "new", "newer", "newest"))) == (went_on.answer_id, 4)


async def test_a_rewritten_older_answer_does_not_move_the_match(chats: Asking) -> None:
    turn = await chats.chat("a", "b", "c", "d", "e", "f")
    ids = chats.items(turn.conversation_id)

    match = await chats.match(turns("a", "b", "c", "[shortened]", "e", "f", "new"))

    assert end_of(match) == (ids[5], 6)
    assert aligned_ids(match)[4:] == [[ids[4]], [ids[5]]]
    assert match is not None
    assert match.base == TranscriptBase(
        conversation_id=turn.conversation_id, response_id=_response_of(chats, ids[2]), count=3
    )


def _response_of(chats: Asking, item_id: str) -> str:
    rows = chats.log.rows("SELECT response_id FROM transcript_prefixes WHERE item_id = %s LIMIT 1", item_id)
    return str(rows[0][0])


async def test_a_known_beginning_is_preferred_to_a_later_answer_on_another_path(
    chats: Asking,
) -> None:
    one = await chats.chat("a", "b", "c", "d")
    await chats.chat("x", "y", "e", "f")

    assert end_of(await chats.match(turns("a", "b", "c", "d2", "e", "f", "new"))) == (
        chats.items(one.conversation_id)[2],
        3,
    )


async def test_the_answer_with_most_equal_messages_before_it_is_taken(
    chats: Asking,
) -> None:
    wanted = await chats.chat("my name is Ada", "Hello Ada", "and?", "What can I do?")
    await chats.chat("my name is Bob", "Hello Bob", "and?", "What can I do?")

    words = turns("other", "things", "my name is Ada", "Hello Ada", "and?", "What can I do?", "new")
    assert end_of(await chats.match(words)) == (wanted.answer_id, 6)


async def test_a_question_sent_with_a_reminder_matches_the_question_without_the_reminder(chats: Asking) -> None:
    """aider adds a reminder to the current question. Open WebUI adds the documents that it found."""
    pair = turns("I share no files.", "Ok.")
    first = await chats.ask([*pair, user("What is my name?\n\nReply in English.\n")], "You have not told me.")
    plain = [*pair, user("What is my name?"), assistant("You have not told me.\n")]
    second = await chats.ask([*plain, user("Think! It is Ada.\n\nReply in English.\n")], "Ada.")
    third = await chats.match([*plain, user("Think! It is Ada."), assistant("Ada."), user("Sure?")])

    assert end_of(second.match) == (first.answer_id, 4)
    assert second.conversation_id == first.conversation_id
    ids = chats.items(first.conversation_id)
    assert aligned_ids(second.match)[2:] == [[ids[2]], [ids[3]]]
    assert end_of(third) == (second.answer_id, 6)
    assert await chats.match([user("Something else?"), assistant("Ada."), user("Sure?")]) is None


async def test_a_transcript_with_a_rewritten_answer_continues_its_conversation(chats: Asking) -> None:
    """smolagents writes calls as text, and the outputs of its tools as messages of the user."""
    first = await chats.ask([user("Weather?")], CALLS[2:3])
    as_text = assistant("Calling tools:\n[{'id': 'call_a', 'type': 'function', 'function': {'name': 'f'}}]")
    observed = [user("Weather?"), as_text, user("Observation:\nsunny")]
    second = await chats.ask(observed, "The code is <code>print(1)")
    added = assistant("The code is <code>print(1)</code>\nCalling tools:\n[]")
    third = await chats.ask([*observed, added, user("Observation: 1")], "done")

    assert end_of(second.match) == (first.answer_id, 2)
    assert end_of(third.match) == (second.answer_id, 4)
    assert {one.conversation_id for one in (first, second, third)} == {first.conversation_id}
    assert len(chats.items(first.conversation_id)) == 6
    assert aligned_ids(third.match) == [[], [], [], [second.answer_id]]
    other = assistant("Calling tools:\n[{'id': 'call_other'}]")
    assert await chats.match([user("Weather?"), other, user("Observation:\nsunny")]) is None


async def test_a_rewritten_answer_from_elsewhere_is_not_taken_for_ours(chats: Asking) -> None:
    await chats.ask(turns("and then?", "it depends", "why?"), "because")

    assert await chats.match(turns("and then?", "it depends\n</done>", "why?")) is None


async def test_an_answer_with_calls_is_not_taken_for_the_same_text_without_calls(chats: Asking) -> None:
    """An answer with other calls does not match either. If the calls are the same, the text may differ."""
    text = "I look at both places for you."
    alone = await chats.ask([user("Weather?")], text)
    cut = await chats.ask(turns("Where?", "Here.", "Weather?"), [assistant(text), *CALLS[2:]])
    front_cut_off = [user("Weather?"), {**SENT_CALLS, "content": text}, *OUTPUTS]

    assert end_of(await chats.match([*turns("Weather?", text), user("?")])) == (alone.answer_id, 2)
    assert end_of(await chats.match(front_cut_off)) == (cut.answer_id, 2)
    went_on = await chats.ask(front_cut_off, "sunny")
    assert end_of(await chats.match(front_cut_off)) == (chats.items(went_on.conversation_id)[-2], 4)
    other = {**SENT_CALLS, "content": text, "tool_calls": SENT_CALLS["tool_calls"][:1]}
    assert await chats.match([user("Weather?"), other, OUTPUTS[0]]) is None
    noted = {**SENT_CALLS, "content": f"{text}\n(interrupted)"}
    assert end_of(await chats.match([*turns("Where?", "Here.", "Weather?"), noted, *OUTPUTS])) == (cut.answer_id, 4)


async def test_of_equally_good_answers_the_one_to_the_same_question_is_taken(
    chats: Asking,
) -> None:
    wanted = await chats.chat("a", "b", "why?", "yes", "more", "x")
    await chats.chat("why?", "no", "and then?", "yes")
    await chats.chat("a", "why?", "and then?", "yes", "c", "d", "ok", "yes")
    answer_id = chats.items(wanted.conversation_id)[3]

    assert end_of(await chats.match(turns("why?", "yes", "ok"))) == (answer_id, 2)
    assert end_of(await chats.match(turns("a", "x", "why?", "yes", "ok"))) == (answer_id, 4)


async def test_the_nearest_equal_messages_decide_between_answers_with_the_same_question(
    chats: Asking,
) -> None:
    wanted = await chats.chat("a", "b", "why?", "yes", "more", "x")
    await chats.chat("a", "b", "c", "d", "why?", "yes")
    answer_id = chats.items(wanted.conversation_id)[3]

    assert end_of(await chats.match(turns("a", "[removed]", "why?", "yes", "ok"))) == (answer_id, 4)


async def test_an_equal_answer_on_another_path_is_preferred_to_a_rewritten_one(
    chats: Asking,
) -> None:
    await chats.ask([user("Say more.")], "It depends.")
    wanted = await chats.chat("Rain?", "Who knows?", "Say more.", "It depends.\nOn the wind.")

    assert end_of(await chats.match(turns("Say more.", "It depends.\nOn the wind.", "?"))) == (wanted.answer_id, 2)


async def test_a_match_stays_at_our_answer_although_another_conversation_has_the_same_words(
    chats: Asking,
) -> None:
    await chats.ask(turns("Hi.", "Hello.", "And?"), "All is well.")
    ours = await chats.ask(turns("Hi."), "Hello.")

    assert end_of(await chats.match([user("Before."), *turns("Hi.", "Hello.", "And?")])) == (ours.answer_id, 3)


async def test_a_match_stays_at_our_answer_although_another_branch_has_the_same_words(
    chats: Asking,
) -> None:
    """On the other branch, no answer of ours is in the transcript."""
    await chats.ask(turns("a"), "b")
    await chats.ask(turns("a", "b", "Hi.", "Hello.", "And?"), "All is well.")
    ours = await chats.ask(turns("a", "b", "Hi."), "Hello.")

    assert end_of(await chats.match([user("Before."), *turns("Hi.", "Hello.", "And?")])) == (ours.answer_id, 3)


async def test_a_match_at_an_answer_includes_the_equal_messages_after_it(chats: Asking) -> None:
    for _ in range(2):
        await chats.ask(turns("Hi."), "Hello.")
    last = await chats.ask(turns("Hi.", "Hello.", "And?"), "All is well.")
    question_id = chats.items(last.conversation_id)[2]

    assert end_of(await chats.match([user("Before."), *turns("Hi.", "Hello.", "And?")])) == (question_id, 4)


async def test_words_of_a_deleted_conversation_begin_a_new_conversation(chats: Asking) -> None:
    turn = await chats.chat("a", "b", "c", "d")
    await chats.events.append(request(turn.conversation_id, DeleteConversation()))

    for words in (turns("a", "b", "c", "d", "e"), turns("c", "d", "e"), [assistant("d"), user("e")]):
        assert await chats.match(words) is None
    anew = await chats.ask(turns("a", "b", "c", "d", "e"), "f")
    assert anew.match is None
    assert len(chats.items(anew.conversation_id)) == 6


async def test_a_retracted_item_and_the_items_after_it_are_not_recognised(chats: Asking) -> None:
    turn = await chats.chat("a", "b", "c", "d")
    ids = chats.items(turn.conversation_id)
    await chats.events.append(request(turn.conversation_id, RetractItem(item_id=ids[2])))

    assert end_of(await chats.match(turns("a", "b", "c", "d", "e"))) == (ids[1], 2)
    assert await chats.match(turns("c", "d", "e")) is None


async def test_a_transcript_continues_in_a_fork_of_a_deleted_conversation(chats: Asking) -> None:
    origin = await chats.chat("a", "b", "c", "d")
    fork = await chats.ask(turns("a", "b", "x"), "y", forks=True)
    assert fork.conversation_id != origin.conversation_id
    await chats.events.append(request(origin.conversation_id, DeleteConversation()))

    match = await chats.match(turns("a", "b", "x", "y", "z"))

    assert end_of(match) == (fork.answer_id, 4)
    assert await chats.match(turns("a", "b", "c", "d", "z")) is None


class TestNamed:
    """The client named the conversation."""

    async def test_only_the_named_conversation_and_its_origins_are_searched(self, chats: Asking) -> None:
        named = await chats.chat("a", "b", "c", "d")
        newer = await chats.chat("a", "b", "e", "f")
        ids = chats.items(named.conversation_id)
        conversation_id = named.conversation_id

        assert end_of(await chats.match(turns("a", "b", "c", "d", "x"), only_in=conversation_id)) == (ids[3], 4)
        assert end_of(await chats.match(turns("a", "b", "e", "f", "x"), only_in=conversation_id)) == (ids[1], 2)
        assert end_of(await chats.match(turns("a"), only_in=conversation_id)) == (ids[0], 1)
        assert await chats.match(turns("x", "y"), only_in=conversation_id) is None
        fork = await chats.ask(turns("a", "b", "x"), "y", forks=True)
        match = await chats.match(turns("a", "b", "other"), only_in=fork.conversation_id)
        assert end_of(match) == (chats.items(newer.conversation_id)[1], 2)
        assert match is not None
        assert match.conversation_id == fork.conversation_id
        assert await chats.match(turns("a"), only_in=mint("conv")) is None

    async def test_a_path_is_compared_even_if_no_prefix_of_it_is_known(self, chats: Asking) -> None:
        conversation_id = await start(chats.events)
        items = [NewItem(item_id=mint("msg"), item=as_stored(message)) for message in turns("a", "b", "c", "d")]
        await chats.events.append(request(conversation_id, AppendItems(items=tuple(items), author="ann")))
        ids = [item.item_id for item in items]

        async def matched(*words: str) -> tuple[str, int] | None:
            return end_of(await chats.match(turns(*words), only_in=conversation_id))

        assert await matched("a", "b", "c", "d", "x") == (ids[3], 4)
        assert await matched("c", "d", "x") == (ids[3], 2)
        assert await matched("a", "x") == (ids[0], 1)
        assert await matched("x", "b", "x") is None
        empty = await start(chats.events)
        assert await chats.match(turns("a"), only_in=empty) is None


async def test_a_transcript_is_compared_with_a_large_answer_in_little_time(chats: Asking) -> None:
    last = await chats.chat("one", "<think> x " * 30_000, "two", "the second answer")
    unknown = [assistant(f"unknown {n}") for n in range(300)]
    start = time.process_time()
    match = await chats.match([*unknown, user("two"), assistant("the second answer"), user("three")])
    assert time.process_time() - start < 2
    assert end_of(match) == (last.answer_id, 302)


async def test_messages_from_anywhere_on_the_path_are_aligned(chats: Asking) -> None:
    words = [f"word {n}" for n in range(60)]
    last = await chats.chat(*words)
    path = chats.items(last.conversation_id)
    kept = [user("word 2"), assistant("word 5"), user("word 2"), user("unknown"), user("word 58"), assistant("word 59")]
    match = await chats.match([*kept, user("more")])
    assert end_of(match) == (last.answer_id, 6)
    assert aligned_ids(match) == [[path[2]], [path[5]], [path[2]], [], [path[58]], [path[59]]]
