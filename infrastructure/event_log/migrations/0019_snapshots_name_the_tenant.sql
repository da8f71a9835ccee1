-- A snapshot is found by its tenant and conversation. A snapshot without a tenant is not found, and a new one is made.
ALTER TABLE snapshots ADD COLUMN IF NOT EXISTS tenant_id text NOT NULL DEFAULT '';

UPDATE snapshots AS s SET tenant_id = e.tenant_id FROM events AS e
WHERE s.tenant_id = '' AND e.originator_id = s.originator_id AND e.originator_version = s.originator_version;
