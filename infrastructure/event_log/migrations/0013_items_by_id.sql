-- An item is found by its id alone, whatever its conversation: requests for a reply may refer to items. With the id first, this one index
-- serves that look-up and the ones inside a conversation, so an append still writes no more indexes than before.
-- Code without this migration must not run on what follows: stored items keep the client's id in `id`, and older code would show that id.
DROP INDEX events_item_idx;
CREATE INDEX events_item_idx ON events (item_id, originator_id, originator_version) WHERE item_id IS NOT NULL;
