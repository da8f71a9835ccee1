-- API keys. Only the SHA-256 of a key's secret is stored. Each statement below can run again on a database into which an older dump was
-- restored.
CREATE TABLE IF NOT EXISTS api_keys (
    id            uuid        PRIMARY KEY,
    secret_sha256 bytea       NOT NULL,
    tenant_id     text        NOT NULL,
    subject       text        NOT NULL,
    scopes        text[]      NOT NULL,
    name          text,
    expires_at    timestamptz,
    last_used_at  timestamptz,
    revoked_at    timestamptz,
    change        bigint      NOT NULL
);
CREATE INDEX IF NOT EXISTS api_keys_of_tenant ON api_keys (tenant_id, id);
CREATE INDEX IF NOT EXISTS api_keys_by_change ON api_keys (change);

-- Numbers every change of a key, except changes of `last_used_at`. Processes read the changes after the last number that they have seen. So a
-- smaller number must never become visible after a larger one: each change holds a lock until its commit. A trigger gives the numbers, so
-- changes that a person makes with SQL have one too.
CREATE SEQUENCE IF NOT EXISTS api_key_changes;
CREATE OR REPLACE FUNCTION number_api_key_change() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(7203914411);
    NEW.change := nextval('api_key_changes');
    RETURN NEW;
END $$;
DROP TRIGGER IF EXISTS number_api_key_change ON api_keys;
CREATE TRIGGER number_api_key_change
    BEFORE INSERT OR UPDATE OF secret_sha256, tenant_id, subject, scopes, expires_at, revoked_at ON api_keys
    FOR EACH ROW EXECUTE FUNCTION number_api_key_change();
