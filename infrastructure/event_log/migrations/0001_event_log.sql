-- The event log. Positions (notification_id) are in commit order: every insert holds the lock on append_turn (below) until its commit.
CREATE TABLE events (
    originator_id      uuid        NOT NULL,
    originator_version bigint      NOT NULL,
    topic              text        NOT NULL,
    state              bytea       NOT NULL,
    notification_id    bigserial   NOT NULL,
    tenant_id          text        NOT NULL DEFAULT '',
    item_id            text,
    recorded_at        timestamptz NOT NULL DEFAULT now(),
    subject            text        NOT NULL DEFAULT '',
    command_id         uuid,
    correlation_id     text        NOT NULL DEFAULT '',
    chain_hash         bytea       NOT NULL DEFAULT '',
    PRIMARY KEY (originator_id, originator_version)
);
-- EXTERNAL: Postgres does not compress this column. The application has already compressed each state that compression makes smaller.
ALTER TABLE events ALTER COLUMN state SET STORAGE EXTERNAL;
CREATE UNIQUE INDEX events_notification_id_idx ON events (notification_id);
CREATE INDEX events_item_idx ON events (originator_id, item_id) WHERE item_id IS NOT NULL;

-- The first answer to each Idempotency-Key, inserted in the transaction of its events.
CREATE TABLE idempotency_keys (
    tenant_id       text        NOT NULL,
    key             text        NOT NULL,
    fingerprint     bytea       NOT NULL,
    command_id      uuid        NOT NULL,
    conversation_id uuid        NOT NULL,
    version         bigint      NOT NULL,
    position        bigint      NOT NULL,
    answer          bytea       NOT NULL,
    recorded_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, key)
);

-- Which conversation a response belongs to.
CREATE TABLE responses (
    tenant_id       text        NOT NULL,
    response_id     text        NOT NULL,
    conversation_id uuid        NOT NULL,
    requested_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, response_id)
);

-- Appends take turns by locking this table. If they locked `events` itself, vacuum and analyze of `events` would wait for an append,
-- or an append would wait a second for them.
CREATE TABLE append_turn ();
