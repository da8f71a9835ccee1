-- What was deleted in a conversation is found without reading the conversation. Few rows are in this index.
CREATE INDEX events_deletions_idx ON events (originator_id, notification_id)
WHERE topic IN ('item.retracted', 'reply.deleted', 'conversation.deleted');
