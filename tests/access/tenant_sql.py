"""Patterns for SQL on the tables that hold tenants' data."""

TENANT_TABLE = r"\b(FROM|JOIN|INTO|UPDATE)\s+(events|responses|idempotency_keys|snapshots|api_keys|token_usage|tenant_positions|transcript_prefixes|contents|content_rows|content_refs|forks|files)\b"
NAMES_TENANT = r"tenant_id = |INSERT INTO [\w ]+\([^)]*\btenant_id\b"
