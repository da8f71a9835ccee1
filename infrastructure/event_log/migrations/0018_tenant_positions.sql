-- The position of each tenant's newest event. A list waits until the views show this position. It does not wait for later events of other
-- tenants. A trigger writes the position, so it is right even if other code inserts into `events`. Turned down: an index of (tenant_id,
-- notification_id). It would cost more for each row than the trigger costs for a whole batch. And Postgres might go backwards through the rows
-- of other tenants instead of using it.
CREATE TABLE IF NOT EXISTS tenant_positions (tenant_id text PRIMARY KEY, position bigint NOT NULL) WITH (fillfactor = 50);

CREATE OR REPLACE FUNCTION note_tenant_positions() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO tenant_positions
    SELECT tenant_id, max(notification_id) FROM inserted GROUP BY tenant_id
    ON CONFLICT (tenant_id) DO UPDATE SET position = excluded.position;
    RETURN NULL;
END $$;

DROP TRIGGER IF EXISTS note_tenant_positions ON events;
CREATE TRIGGER note_tenant_positions AFTER INSERT ON events REFERENCING NEW TABLE AS inserted
FOR EACH STATEMENT EXECUTE FUNCTION note_tenant_positions();
-- ALWAYS: the trigger also runs in sessions with session_replication_role = replica, which people use to load tables.
ALTER TABLE events ENABLE ALWAYS TRIGGER note_tenant_positions;

INSERT INTO tenant_positions SELECT tenant_id, max(notification_id) FROM events GROUP BY tenant_id
ON CONFLICT (tenant_id) DO UPDATE SET position = excluded.position;
