-- With the version in the index, the last row with some `item_id` is one look-up. Without the version, if an `item_id` such as "pins" is common
-- in other conversations and absent in this one, the planner reads this conversation back to its beginning.
DROP INDEX events_item_idx;
CREATE INDEX events_item_idx ON events (originator_id, item_id, originator_version) WHERE item_id IS NOT NULL;
