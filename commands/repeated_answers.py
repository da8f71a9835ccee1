"""The first answer to an idempotency key, without what was deleted since then.

A model's title is left out, because it may have been withdrawn.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from context.deleted_content import deleted_items
from context.forks import fork_of, lineage
from context.withdrawn_summaries import is_withdrawn
from domain.errors import ConversationNotFound
from domain.events import ContextCompacted, FeedbackGiven, feedback_key
from domain.items import without_content
from infrastructure.event_log.reader import PrincipalReader


async def without_deleted(reader: PrincipalReader, conversation_id: str, version: int, answer: bytes) -> bytes:
    """`answer`: the JSON text that was stored with the key.

    Raises ConversationNotFound if the conversation's deletion has emptied the answer.
    """
    if not answer:
        raise ConversationNotFound(conversation_id)
    body: Any = msgspec.json.decode(answer)
    match body:
        case {"object": "list", "data": items}:
            deleted = await deleted_items(reader, dict.fromkeys(item["id"] for item in items))
            if deleted:
                shown = [without_content(item) if item["id"] in deleted else item for item in items]
                return msgspec.json.encode({**body, "data": shown})
        case {"id": str(item_id), "type": str()} if "object" not in body:
            if await deleted_items(reader, {item_id: None}, [conversation_id]):
                return msgspec.json.encode(without_content(body))
        case {"object": "feedback", "comment": str()} if await _hides_comment(reader, conversation_id, body):
            return msgspec.json.encode({**body, "comment": None})
        case {"object": "conversation", "title_by": "model"}:
            return msgspec.json.encode({**body, "title": None, "title_by": None})
        case {"object": "conversation.compaction"} if await _is_withdrawn(reader, conversation_id, version, body):
            return msgspec.json.encode({**body, "summary": ""})
        case _:
            pass
    return answer


async def _is_withdrawn(
    reader: PrincipalReader, conversation_id: str, version: int, compaction: Mapping[str, Any]
) -> bool:
    for recorded in await reader.summary_changes(conversation_id, until=version, limit=1):
        if isinstance(event := recorded.event, ContextCompacted) and event.compaction_id == compaction["id"]:
            return await is_withdrawn(reader, recorded, await fork_of(reader, conversation_id))
    return True


async def _hides_comment(reader: PrincipalReader, conversation_id: str, feedback: Mapping[str, Any]) -> bool:
    """Whether the feedback was withdrawn, or its target is deleted."""
    target = feedback["item"] or feedback["response"]
    events = await reader.items(conversation_id, [feedback_key(target, feedback["by"])])
    given = events[-1].event if events else None
    if not isinstance(given, FeedbackGiven):
        return True
    return bool(await deleted_items(reader, {target: given.copy_of}, await lineage(reader, conversation_id)))
