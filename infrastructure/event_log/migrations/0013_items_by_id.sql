-- With this index an item is found by its id alone, in any conversation, because requests for a reply may refer to items. The id comes first, so
-- the same index also serves the look-ups inside a conversation. An append writes no more indexes than before.
-- Older code must not run on data that is written after this migration: stored items keep the client's id in `id`, and older code would show it.
DROP INDEX events_item_idx;
CREATE INDEX events_item_idx ON events (item_id, originator_id, originator_version) WHERE item_id IS NOT NULL;
