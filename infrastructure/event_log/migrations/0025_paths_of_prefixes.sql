-- A row says which path its beginning takes: `branch` is the branch of its item, and the path leaves each of `leaf_branches` after the depth
-- that `leaf_depths` has at the same index (NULL: the item is on the first branch). `branch` is NULL in rows from before this migration.
ALTER TABLE transcript_prefixes ADD COLUMN IF NOT EXISTS branch bigint, ADD COLUMN IF NOT EXISTS leaf_branches bigint[],
    ADD COLUMN IF NOT EXISTS leaf_depths integer[];

-- The value of a whole number >= 0 in an event's state (infrastructure/event_log/codec.py). NULL if the state is not plain MessagePack.
CREATE OR REPLACE FUNCTION number_in_state(state bytea, field text) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    name bytea := set_byte('\x00', 0, 160 + length(field)) || convert_to(field, 'UTF8');
    at integer := position(name IN state) + length(name) - 1;
    kind integer;
BEGIN
    IF get_byte(state, 0) <> 1 OR position(name IN state) = 0 THEN
        RETURN NULL;
    END IF;
    kind := get_byte(state, at);
    RETURN CASE WHEN kind < 128 THEN kind
        WHEN kind BETWEEN 204 AND 207
            THEN ('x' || lpad(encode(substring(state FROM at + 2 FOR 1 << (kind - 204)), 'hex'), 16, '0'))::bit(64)::bigint
        END;
END $$;

-- As in 0024, with one change: beginnings on other branches stay, if their path does not pass the item. Rows whose path is not known go.
CREATE OR REPLACE FUNCTION remove_transcript_prefixes() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    since bigint := 0;
    item_branch bigint;
    item_depth bigint;
BEGIN
    IF NEW.topic IN ('item.retracted', 'item.restored') THEN
        item_branch := number_in_state(NEW.state, 'branch');
        item_depth := number_in_state(NEW.state, 'depth');
        SELECT originator_version INTO since FROM events
        WHERE item_id = NEW.item_id AND originator_id = NEW.originator_id AND tenant_id = NEW.tenant_id AND topic = 'item.appended'
        ORDER BY originator_version LIMIT 1;
    END IF;
    DELETE FROM transcript_prefixes AS p
    WHERE p.conversation_id = NEW.originator_id AND p.version >= coalesce(since, 0) AND p.tenant_id = NEW.tenant_id AND (
        p.branch IS NULL OR item_branch IS NULL OR item_depth IS NULL
        OR (p.branch = item_branch AND p.depth >= item_depth)
        OR p.leaf_depths[array_position(p.leaf_branches, item_branch)] >= item_depth);
    RETURN NULL;
END $$;

-- As in 0023, whose function this one replaces. New: the paths of prefixes.
DROP FUNCTION append_at_once(
    uuid[], bigint[], bytea[], append_row[],
    int[], text[], uuid[], int[], text[], uuid[],
    int[], text[], bytea[], bytea[], timestamptz,
    int[], bytea[], int[], boolean[], text[], int[], bytea[]
);
CREATE OR REPLACE FUNCTION append_at_once(
    held uuid[], held_versions bigint[], held_hashes bytea[], rows append_row[],
    response_rows int[], response_ids text[], owners uuid[], over_rows int[], over_ids text[], deleted uuid[],
    key_rows int[], keys text[], key_fingerprints bytea[], key_answers bytea[], keys_since timestamptz,
    prefix_rows int[], prefix_hashes bytea[], prefix_depths int[], prefix_answered boolean[],
    prefix_responses text[], prefix_messages int[], prefix_exact bytea[],
    prefix_branches bigint[], prefix_leaf_branches text[], prefix_leaf_depths text[]
) RETURNS bigint[] LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    positions bigint[];
BEGIN
    positions := append_at_once(
        held, held_versions, held_hashes, rows, response_rows, response_ids, owners, over_rows, over_ids, deleted,
        key_rows, keys, key_fingerprints, key_answers, keys_since);
    IF cardinality(prefix_rows) > 0 AND positions IS NOT NULL THEN
        INSERT INTO transcript_prefixes
            (tenant_id, hash, conversation_id, version, item_id, depth, answered, response_id, messages, exact, branch, leaf_branches, leaf_depths)
        SELECT r.tenant_id, p.hash, r.originator_id, r.originator_version, r.item_id, p.depth, p.answered, p.response, p.messages, p.exact,
            p.branch, p.leaf_branches::bigint[], p.leaf_depths::integer[]
        FROM unnest(prefix_rows, prefix_hashes, prefix_depths, prefix_answered, prefix_responses, prefix_messages, prefix_exact,
            prefix_branches, prefix_leaf_branches, prefix_leaf_depths)
            AS p (at, hash, depth, answered, response, messages, exact, branch, leaf_branches, leaf_depths)
        JOIN unnest(rows) WITH ORDINALITY AS r ON r.ordinality = p.at
        WHERE NOT EXISTS (
            SELECT FROM unnest(rows) AS later WHERE later.topic IN ('conversation.deleted', 'item.retracted', 'item.restored')
                AND later.originator_id = r.originator_id AND later.originator_version > r.originator_version)
        ON CONFLICT (tenant_id, hash, conversation_id, version) DO UPDATE SET
            item_id = excluded.item_id, depth = excluded.depth, answered = excluded.answered,
            response_id = excluded.response_id, messages = excluded.messages, exact = excluded.exact,
            branch = excluded.branch, leaf_branches = excluded.leaf_branches, leaf_depths = excluded.leaf_depths;
    END IF;
    RETURN positions;
END $$;
