-- What was deleted in a conversation is found without reading the conversation. Few rows are in this index.
CREATE INDEX IF NOT EXISTS events_deletions_idx ON events (originator_id, notification_id)
WHERE topic IN ('item.retracted', 'reply.deleted', 'conversation.deleted');

-- Kept answers go with their conversation. The keys stay: a repeat is answered with 404, not carried out again.
CREATE INDEX IF NOT EXISTS idempotency_keys_conversation_idx ON idempotency_keys (conversation_id);
UPDATE idempotency_keys AS k SET answer = '' WHERE EXISTS (
    SELECT FROM events AS e WHERE e.originator_id = k.conversation_id AND e.topic = 'conversation.deleted' AND e.originator_version <> k.version);

CREATE OR REPLACE FUNCTION empty_kept_answers() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE idempotency_keys SET answer = '' WHERE tenant_id = NEW.tenant_id AND conversation_id = NEW.originator_id;
    RETURN NULL;
END $$;
-- The receipt of the deletion itself is inserted after its events.
DROP TRIGGER IF EXISTS conversation_deleted ON events;
CREATE TRIGGER conversation_deleted AFTER INSERT ON events FOR EACH ROW WHEN (NEW.topic = 'conversation.deleted')
EXECUTE FUNCTION empty_kept_answers();
