-- Items that were retracted can be restored (item.restored). The index is as in 0017, with this topic too: it finds summaries that were made
-- without a restored item.
CREATE INDEX IF NOT EXISTS events_deletions_and_restorations_idx ON events (originator_id, notification_id)
WHERE topic IN ('item.retracted', 'item.restored', 'reply.deleted', 'conversation.deleted');
DROP INDEX IF EXISTS events_deletions_idx;

-- The beginnings of transcripts that were recorded while an item was retracted do not contain the item. They are deleted when it is restored.
-- The function is in 0024.
DROP TRIGGER IF EXISTS remove_transcript_prefixes ON events;
CREATE TRIGGER remove_transcript_prefixes AFTER INSERT ON events
FOR EACH ROW WHEN (NEW.topic IN ('conversation.deleted', 'item.retracted', 'item.restored')) EXECUTE FUNCTION remove_transcript_prefixes();

-- As in 0020, with one change: prefixes are also left out if the same transaction restores an item after them.
CREATE OR REPLACE FUNCTION append_at_once(
    held uuid[], held_versions bigint[], held_hashes bytea[], rows append_row[],
    response_rows int[], response_ids text[], owners uuid[], over_rows int[], over_ids text[], deleted uuid[],
    key_rows int[], keys text[], key_fingerprints bytea[], key_answers bytea[], keys_since timestamptz,
    prefix_rows int[], prefix_hashes bytea[], prefix_depths int[], prefix_answered boolean[],
    prefix_responses text[], prefix_messages int[], prefix_exact bytea[]
) RETURNS bigint[] LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    positions bigint[];
BEGIN
    positions := append_at_once(
        held, held_versions, held_hashes, rows, response_rows, response_ids, owners, over_rows, over_ids, deleted,
        key_rows, keys, key_fingerprints, key_answers, keys_since);
    IF cardinality(prefix_rows) > 0 AND positions IS NOT NULL THEN
        INSERT INTO transcript_prefixes
            (tenant_id, hash, conversation_id, version, item_id, depth, answered, response_id, messages, exact)
        SELECT r.tenant_id, p.hash, r.originator_id, r.originator_version, r.item_id, p.depth, p.answered, p.response, p.messages, p.exact
        FROM unnest(prefix_rows, prefix_hashes, prefix_depths, prefix_answered, prefix_responses, prefix_messages, prefix_exact)
            AS p (at, hash, depth, answered, response, messages, exact)
        JOIN unnest(rows) WITH ORDINALITY AS r ON r.ordinality = p.at
        WHERE NOT EXISTS (
            SELECT FROM unnest(rows) AS later WHERE later.topic IN ('conversation.deleted', 'item.retracted', 'item.restored')
                AND later.originator_id = r.originator_id AND later.originator_version > r.originator_version)
        ON CONFLICT (tenant_id, hash, conversation_id, version) DO UPDATE SET
            item_id = excluded.item_id, depth = excluded.depth, answered = excluded.answered,
            response_id = excluded.response_id, messages = excluded.messages, exact = excluded.exact;
    END IF;
    RETURN positions;
END $$;
