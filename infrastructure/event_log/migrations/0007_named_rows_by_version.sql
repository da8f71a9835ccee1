-- With the version in it the last row of a name is one look-up. Without, the planner reads a long conversation back to its
-- beginning for the last row of a name that is common elsewhere and that this conversation has none of.
DROP INDEX events_item_idx;
CREATE INDEX events_item_idx ON events (originator_id, item_id, originator_version) WHERE item_id IS NOT NULL;
