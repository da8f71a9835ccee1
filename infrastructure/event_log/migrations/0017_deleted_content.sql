-- With this index, the deletions in a conversation are found without reading the conversation. It is small, because few events are deletions.
CREATE INDEX IF NOT EXISTS events_deletions_idx ON events (originator_id, notification_id)
WHERE topic IN ('item.retracted', 'reply.deleted', 'conversation.deleted');

-- When a conversation is deleted, its kept answers are emptied. The keys stay, so a repeat is answered with 404 and is not executed again.
CREATE INDEX IF NOT EXISTS idempotency_keys_conversation_idx ON idempotency_keys (conversation_id);
UPDATE idempotency_keys AS k SET answer = '' WHERE EXISTS (
    SELECT FROM events AS e WHERE e.originator_id = k.conversation_id AND e.topic = 'conversation.deleted' AND e.originator_version <> k.version);

CREATE OR REPLACE FUNCTION empty_kept_answers() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE idempotency_keys SET answer = '' WHERE tenant_id = NEW.tenant_id AND conversation_id = NEW.originator_id;
    RETURN NULL;
END $$;
-- The answer to the deletion itself is kept, because it is inserted after the deletion's events.
DROP TRIGGER IF EXISTS conversation_deleted ON events;
CREATE TRIGGER conversation_deleted AFTER INSERT ON events FOR EACH ROW WHEN (NEW.topic = 'conversation.deleted')
EXECUTE FUNCTION empty_kept_answers();
