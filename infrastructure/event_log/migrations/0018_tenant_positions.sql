-- The position of each tenant's newest event. A list waits until the views show it, and not for what other tenants wrote after it.
-- A trigger writes it, so that it is right whoever inserts into `events`. An index of (tenant_id, notification_id) would cost each row more
-- than this costs a whole batch, and Postgres could choose to go backwards through the rows of other tenants instead.
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
-- ALWAYS: also in sessions with session_replication_role = replica, in which people load tables.
ALTER TABLE events ENABLE ALWAYS TRIGGER note_tenant_positions;

INSERT INTO tenant_positions SELECT tenant_id, max(notification_id) FROM events GROUP BY tenant_id
ON CONFLICT (tenant_id) DO UPDATE SET position = excluded.position;
