"""Checks after one step of a random history of a store.

If the step moves the log back, only requests that were sent before the end of the move may be lost.
"""

from collections.abc import Sequence

from infrastructure.ids import uuid_of
from tests.end_to_end.history_requests import Acknowledged, Request, RequestSender
from tests.end_to_end.log_copy import LogCopy
from tests.end_to_end.log_moves import Rows

ANSWER = "answer "

REFUSALS = {
    404: {"not_found"},
    409: {"conversation_locked", "response_in_progress", "head_moved"},
    400: {"previous_response_not_found"},
}


def faults_of_log(log: LogCopy, base: Rows, sender: RequestSender) -> list[str]:
    faults = [*log.faults]
    faults += [
        f"lost or changed: {name} version {version}"
        for (name, version), row in base.items()
        if log.rows.get((name, version)) != row
    ]
    faults += [
        f"invented: {text}" for text in log.texts.values() if text not in sender.texts and not text.startswith(ANSWER)
    ]
    return faults


def faults_of_requests(
    requests: Sequence[Request], before: LogCopy, base: Rows | None, log: LogCopy, *, dangling: bool
) -> list[str]:
    """A request sent before the end of the move may be lost, but not in part.

    `before`: the log before this step. `base`: the rows that the move left; None: no move. `dangling`: a replayed
    answer may name removed rows.
    """
    faults: list[str] = []
    left = before if base is None else LogCopy(base)
    deleted = {request.conversation_id for request in requests if request.kind == "delete"}
    lasting = (set(before.conversations) & set(left.conversations)) - deleted
    for request in requests:
        if request.status == 200:
            stored = [_is_stored(request, event, log) for event in request.events]
            must_be_stored = request.after_move and not (dangling and request.replayed)
            if (must_be_stored and not all(stored)) or (any(stored) and not all(stored)):
                faults.append(f"acknowledged, but not in the log: {request}")
        elif request.status is not None and not _is_allowed(request, lasting, dangling=dangling):
            faults.append(f"not allowed: {request}")
    return faults


def _is_stored(request: Request, event: Acknowledged, log: LogCopy) -> bool:
    row = log.rows.get((uuid_of(request.conversation_id), event.version))
    return row is not None and (row.topic, row.item_id) == (event.topic, event.item_id or row.item_id)


def _is_allowed(request: Request, lasting: set[str], *, dangling: bool) -> bool:
    if request.status == 503:
        return True
    if request.code not in REFUSALS.get(request.status or 0, ()):
        return False
    # A 404 for a conversation that still exists is allowed in two cases. The item to retract is missing. Or a deletion
    # emptied the stored answer of the key, and the row of the deletion was removed.
    may_be_emptied = dangling and request.key is not None
    return (
        request.status != 404 or request.kind == "retract" or may_be_emptied or request.conversation_id not in lasting
    )
