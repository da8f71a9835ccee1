"""The metrics and log events of a view updater."""

import logging
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

import structlog

from infrastructure.event_log.feed import Batch
from infrastructure.event_log.recorded import Logged
from infrastructure.observability.metrics import Metrics
from projections.views.partitions import partition_of
from projections.views.view_position import Parked, ViewPosition

log = structlog.get_logger(__name__)

Positions = Mapping[str, ViewPosition]
"""View positions, by `key`."""


def report_loaded(before: Positions, after: Positions) -> None:
    for key, view_position in after.items():
        if key in before:
            _report_unparked(before[key], view_position)
    for view in sorted({view_position.view for view_position in after.values()}):
        state = _state(after.values(), view)
        if state != _state(before.values(), view):
            log.info("projection_state", projection=view, state=state, position=_position(after.values(), view))


def report_applied(
    metrics: Metrics, before: Positions, after: Positions, moved: Collection[ViewPosition], batch: Batch
) -> None:
    shown: defaultdict[str, list[Logged]] = defaultdict(list)
    by_partition: defaultdict[int, list[Logged]] = defaultdict(list)
    caught_up: set[str] = set()
    for logged in batch.events:
        by_partition[partition_of(logged.conversation_id)].append(logged)
    for view_position in moved:
        old = before[view_position.key]
        if old.state == "live":
            events = by_partition.get(view_position.partition, ())
            shown[view_position.view] += [
                logged for logged in events if logged.conversation_id not in view_position.parked
            ]
        elif view_position.is_live:
            caught_up.add(view_position.view)
        _report_unparked(old, view_position)
    for view in caught_up:
        if _state(after.values(), view) == "live":
            log.info("projection_state", projection=view, state="live", position=_position(after.values(), view))
    now = time.time()
    for view in {view_position.view for view_position in moved}:
        metrics.projection_position.labels(view).set(_position(after.values(), view))
        observe = metrics.projection_lag_seconds.labels(view).observe
        for logged in shown.get(view, ()):
            observe(max(0.0, now - logged.recorded_at.timestamp()))
    if log.is_enabled_for(logging.DEBUG):
        _log_events(shown)


def report_parked(view: str, logged: Logged, parked: Parked) -> None:
    log.error(
        "projection_parked",
        projection=view,
        conversation_id=logged.conversation_id,
        position=logged.position,
        version=logged.version,
        event_type=logged.topic,
        request_id=logged.correlation_id,
        error_type=parked.error,
    )


def _log_events(shown: Mapping[str, Sequence[Logged]]) -> None:
    for view, events in shown.items():
        for logged in events:
            log.debug(
                "event_projected",
                request_id=logged.correlation_id,
                conversation_id=logged.conversation_id,
                version=logged.version,
                position=logged.position,
                event_type=logged.topic,
                projection=view,
            )


def _report_unparked(before: ViewPosition, after: ViewPosition) -> None:
    if after.parked is before.parked:
        return
    for conversation_id in before.parked.keys() - after.parked.keys():
        log.info("projection_unparked", projection=after.view, conversation_id=conversation_id, position=after.position)


def _position(view_positions: Iterable[ViewPosition], view: str) -> int:
    """The lowest position of the view in the partitions of this process."""
    return min(view_position.position for view_position in view_positions if view_position.view == view)


def _state(view_positions: Iterable[ViewPosition], view: str) -> str | None:
    """None if this process has no partition of the view."""
    states = {view_position.state for view_position in view_positions if view_position.view == view}
    return None if not states else "live" if states == {"live"} else "rebuilding"
