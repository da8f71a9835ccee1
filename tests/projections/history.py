"""Histories that touch every event there is, for tests that compare whole views."""

from domain.commands import (
    DescribeConversation,
    EndConversation,
    PinItem,
    RedoCompaction,
    ReopenConversation,
    UndoCompaction,
    UnpinItem,
)
from domain.events import ContextPolicy, Fork
from tests.queries.store import Writer


async def write_everything(write: Writer) -> dict[str, str]:
    """One conversation of each kind; their ids by what became of them."""
    plain = await write.start(
        "hello", "you there", instructions="Be brief.", metadata={"a.b": "1", "$set": "2", "": "3"}
    )
    described = await write.start("hi", title="One", instructions="Old.")
    await write.do(
        described, DescribeConversation(title=None, instructions="New.", metadata={"$c.d": "2", "é": "\x01"})
    )
    await write.do(described, DescribeConversation(instructions=None, context_policy=ContextPolicy(budget=99)))
    retracted = await write.start("keep", "regret")
    ids = await write.append(retracted, "one", "two", "three")
    await write.retract(retracted, ids[1])
    answered = await write.start(owner="else")
    response, given = await write.ask(answered, "What is it?", temperature=0.5)
    await write.answer(answered, response, given, "It is this.", "And that.")
    cut_off, given = await write.ask(answered, "More?")
    await write.answer(answered, cut_off, given, "It", finish="length")
    failed, _ = await write.ask(answered, "Again?")
    await write.fail(answered, failed)
    await write.ask(answered, "And now?")
    ended = await write.start("bye")
    await write.do(ended, EndConversation(reason="done"))
    await write.do(ended, ReopenConversation())
    await write.do(ended, EndConversation())
    deleted = await write.start("secret", "more secret")
    asked, given = await write.ask(deleted, "secret question")
    await write.answer(deleted, asked, given, "secret answer")
    await write.delete(deleted)
    pinned = await write.start("first", "of all", "and more")
    ids = await write.append(pinned, "pin me", "and me", "not me")
    for item_id in ids:
        await write.do(pinned, PinItem(item_id=item_id))
    await write.do(pinned, UnpinItem(item_id=ids[2]))
    await write.retract(pinned, ids[1])
    compacted = await write.start("long ago")
    ids = await write.append(compacted, "once", "upon", "a time")
    await write.compact(compacted, ids[0], 2)
    await write.append(compacted, "there was")
    await write.compact(compacted, ids[1], 3)
    await write.do(compacted, UndoCompaction())
    await write.do(compacted, RedoCompaction())
    await write.do(compacted, UndoCompaction())
    fork = Fork(conversation_id=pinned, item_id=ids[0], version=4, depth=3)
    forked = await write.start("elsewhere", forked_from=fork)
    other = await write.of("other").start("elsewhere")
    return {
        "plain": plain,
        "described": described,
        "retracted": retracted,
        "answered": answered,
        "ended": ended,
        "deleted": deleted,
        "pinned": pinned,
        "compacted": compacted,
        "forked": forked,
        "other": other,
    }
