"""Writes conversations with most types of events, for tests that compare whole views.

There are no branches, no feedback, no restored items, and no replies that are queued, stopped, deleted or sent again.
"""

from domain.commands import (
    DescribeConversation,
    DescribeReply,
    EndConversation,
    PinItem,
    ReopenConversation,
    ShareConversation,
    UnpinItem,
    UnshareConversation,
)
from domain.events import ContextPolicy, Fork, Share, Transcript
from tests.queries.writer import Writer


async def write_many_kinds(write: Writer) -> dict[str, str]:
    plain = await write.start(
        "hello", "you there", instructions="Be brief.", metadata={"a.b": "1", "$set": "2", "": "3"}
    )
    described = await write.start("hi", title="One", instructions="Old.")
    await write.execute(
        described, DescribeConversation(title=None, instructions="New.", metadata={"$c.d": "2", "é": "\x01"})
    )
    await write.execute(described, DescribeConversation(instructions=None, context_policy=ContextPolicy(budget=99)))
    retracted = await write.start("keep", "regret")
    ids = await write.append(retracted, "one", "two", "three")
    await write.retract(retracted, ids[1])
    answered = await write.start(owner="else")
    response, question = await write.request_reply(answered, "What is it?", temperature=0.5)
    await write.complete_reply(answered, response, question, "It is this.", "And that.")
    cut_off, question = await write.request_reply(answered, "More?")
    await write.complete_reply(answered, cut_off, question, "It", finish="length")
    failed, _ = await write.request_reply(answered, "Again?")
    await write.fail_reply(answered, failed)
    await write.request_reply(answered, "And now?")
    chat = await write.start(listed=False)
    completion, question = await write.request_reply(chat, "hi", transcript=Transcript(), metadata={"a.b": "1"})
    await write.complete_reply(chat, completion, question, "hello")
    await write.execute(chat, DescribeReply(response_id=completion, metadata={"$c": "2"}))
    await write.request_reply(chat, "Still there?", transcript=Transcript(), lists=True)
    ended = await write.start("bye")
    await write.execute(ended, EndConversation(reason="done"))
    await write.execute(ended, ReopenConversation())
    await write.execute(ended, EndConversation())
    deleted = await write.start("secret", "more secret")
    response, question = await write.request_reply(deleted, "secret question")
    await write.complete_reply(deleted, response, question, "secret answer")
    await write.delete(deleted)
    pinned = await write.start("first", "of all", "and more")
    ids = await write.append(pinned, "pin me", "and me", "not me")
    for item_id in ids:
        await write.execute(pinned, PinItem(item_id=item_id))
    await write.execute(pinned, UnpinItem(item_id=ids[2]))
    await write.retract(pinned, ids[1])
    compacted = await write.start("long ago")
    ids = await write.append(compacted, "once", "upon", "a time")
    first = (await write.compact(compacted, ids[0], 2)).version
    await write.append(compacted, "there was")
    second = (await write.compact(compacted, ids[1], 3)).version
    await write.undo(compacted, second, first)
    await write.redo(compacted, second)
    await write.undo(compacted, second, first)
    fork = Fork(conversation_id=pinned, item_id=ids[0], version=4, depth=3)
    forked = await write.start("elsewhere", forked_from=fork)
    shared = await write.start("between us")
    for share in (Share(subject="ben", role="reader"), Share(subject="tenant", role="writer"), Share(role="reader")):
        await write.execute(shared, ShareConversation(share=share))
    await write.execute(shared, UnshareConversation(subject="ben"))
    other = await write.for_tenant("other").start("elsewhere")
    return {
        "plain": plain,
        "described": described,
        "retracted": retracted,
        "answered": answered,
        "chat": chat,
        "ended": ended,
        "deleted": deleted,
        "pinned": pinned,
        "compacted": compacted,
        "forked": forked,
        "shared": shared,
        "other": other,
    }
