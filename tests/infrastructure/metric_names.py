"""The metrics of a process, with their labels."""

METRICS = {
    "http_requests": ("method", "route", "status"),
    "http_request_seconds": ("method", "route"),
    "open_sockets": (),
    "events_appended": ("type",),
    "append_batch_events": (),
    "append_seconds": (),
    "append_conflicts": ("reason",),
    "streams_lost": ("source",),
    "replies": ("status",),
    "reply_seconds": (),
    "reply_tokens": ("direction",),
    "titles": ("outcome",),
    "model_unavailable": (),
    "rate_limited": ("limit",),
    "limits_shared": (),
    "projection_position": ("projection",),
    "projection_head": (),
    "projection_lag_seconds": ("projection",),
    "projection_parked": (),
    "projection_interruptions": ("projection", "error"),
    "projection_restarts": ("projection",),
}
"""The names have no prefix `conversation_store_` and no suffix of Prometheus (`_total`, `_bucket` …)."""

LABELS = {label for labels in METRICS.values() for label in labels}
