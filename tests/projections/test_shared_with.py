"""The view `conversations` has the subjects that each conversation is shared with."""

from domain.commands import ShareConversation, UnshareConversation
from domain.events import Share
from projections.views.conversations import WITH_TENANT, shared_with_subject
from tests.projections.world import World
from tests.queries.writer import Writer


async def shared_with(world: World, subject: str) -> list[str]:
    await world.catch_up()
    found = world.database["conversations"].find(
        {"tenant": "default", "shared_with": {"$in": shared_with_subject(subject)}}
    )
    return sorted([document["id"] async for document in found])


async def test_a_conversation_is_found_only_by_subjects_that_it_is_shared_with(write: Writer, world: World) -> None:
    with_ben, with_all, with_odd_names = [await write.start() for _ in range(3)]
    await write.start()
    await write.execute(with_ben, ShareConversation(share=Share(subject="ben", role="reader")))
    await write.execute(with_all, ShareConversation(share=Share(role="writer")))
    for subject in (WITH_TENANT, "subject:ben", "$in", "a.b"):
        await write.execute(with_odd_names, ShareConversation(share=Share(subject=subject, role="reader")))

    assert await shared_with(world, "ben") == sorted([with_ben, with_all])
    assert await shared_with(world, "eve") == [with_all]
    for subject in (WITH_TENANT, "subject:ben", "$in", "a.b"):
        assert await shared_with(world, subject) == sorted([with_all, with_odd_names])

    await write.execute(with_ben, ShareConversation(share=Share(subject="ben", role="writer")))
    assert await shared_with(world, "ben") == sorted([with_ben, with_all])
    await write.execute(with_ben, UnshareConversation(subject="ben"))
    await write.execute(with_all, UnshareConversation(subject=None))
    assert await shared_with(world, "ben") == []
    assert await world.matches_log()
