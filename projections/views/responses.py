"""The view `responses`: one document for each reply, as soon as it is queued or requested. Large values are shortened.

`chat`: whether the reply is a chat completion that is not deleted
`subject`: who requested the reply
`output_ids`: the output items that joined the conversation
`output`: the output items that did not join the conversation, because the reply failed or was stopped
`metadata`: the present [name, value] pairs; `parameters` has the requested pairs
`copies`: [id, id of the original] of each input item that is a copy
"""

from collections.abc import Iterator, Mapping, Sequence

import msgspec
from msgspec import Struct

from domain.events import (
    InputItem,
    ReplyCancelled,
    ReplyCompleted,
    ReplyDeleted,
    ReplyDescribed,
    ReplyFailed,
    ReplyInterrupted,
    ReplyQueued,
    ReplyRequested,
    ReplyShown,
)
from domain.items import as_output
from infrastructure.event_log.recorded import Logged
from projections.views.document_size import (
    MAX_INPUT_BYTES,
    MAX_OUTPUT_BYTES,
    MAX_PARAMETERS_BYTES,
    shortened,
    shortened_list,
)
from projections.views.writes import Document, Insert, Update, Write, document_key, metadata_pairs, microseconds
from replies.response_from_events import error_of, partial_output, status_of


class _Parameters(Struct):
    metadata: Mapping[str, str] | None = None


_parameters_decoder = msgspec.json.Decoder(_Parameters)


def response_writes(logged: Logged) -> Iterator[Write]:
    event = logged.event
    match event:
        case ReplyRequested(queued=True):
            started = {"status": "in_progress", "renderer": event.renderer}
            yield Update("responses", document_key(logged.tenant, event.response_id), started)
        case ReplyQueued() | ReplyRequested():
            key = document_key(logged.tenant, event.response_id)
            copies = [[item.item_id, item.copy_of] for item in event.input if item.copy_of is not None]
            yield Insert(
                "responses",
                key,
                {
                    "_id": key,
                    "tenant": logged.tenant,
                    "conversation_id": logged.conversation_id,
                    "id": event.response_id,
                    "version": logged.version,
                    "chat": isinstance(event, ReplyRequested) and event.transcript is not None,
                    "subject": logged.subject,
                    "status": "queued" if isinstance(event, ReplyQueued) else "in_progress",
                    "model": event.model,
                    "renderer": event.renderer,
                    "parameters": shortened(event.parameters, MAX_PARAMETERS_BYTES).decode(),
                    "metadata": metadata_pairs(_parameters_decoder.decode(event.parameters).metadata or {}),
                    "input": _items(event.input, MAX_INPUT_BYTES),
                    "output_ids": [],
                    "created_at": microseconds(logged.recorded_at),
                    "completed_at": None,
                    "usage": None,
                    "cost": None,
                    "finish_reason": None,
                    "service_tier": None,
                    "error": None,
                    "output": [],
                    "deleted": False,
                    **({"copies": copies} if copies else {}),
                },
            )
        case ReplyShown():
            renderer = {"renderer": event.shown.renderer}
            yield Update("responses", document_key(logged.tenant, event.response_id), renderer)
        case ReplyCompleted():
            yield Update(
                "responses",
                document_key(logged.tenant, event.response_id),
                {
                    "status": status_of(event),
                    "model": event.model,
                    "completed_at": microseconds(logged.recorded_at),
                    "usage": msgspec.to_builtins(event.usage),
                    "cost": event.cost,
                    "finish_reason": event.finish_reason,
                    "service_tier": event.service_tier,
                    "output_ids": list(event.output_ids),
                },
            )
        case ReplyFailed() | ReplyCancelled() | ReplyInterrupted():
            yield Update(
                "responses",
                document_key(logged.tenant, event.response_id),
                {
                    "status": status_of(event),
                    "completed_at": microseconds(logged.recorded_at),
                    "error": error_of(event),
                    "output": _items(partial_output(event), MAX_OUTPUT_BYTES),
                    "output_ids": list(event.output_ids),
                },
            )
        case ReplyDescribed():
            metadata = {"metadata": metadata_pairs(event.metadata)}
            yield Update("responses", document_key(logged.tenant, event.response_id), metadata)
        case ReplyDeleted():
            emptied: Document = {"parameters": "{}", "metadata": [], "input": [], "output": [], "output_ids": []}
            gone = {"deleted": True, "chat": False, **emptied}
            yield Update("responses", document_key(logged.tenant, event.response_id), gone)
        case _:
            return


def _items(items: Sequence[InputItem], max_bytes: int) -> list[str]:
    texts = [as_output(item.item_id, item.item) for item in items]
    return [text.decode() for text in shortened_list(texts, max_bytes)]
