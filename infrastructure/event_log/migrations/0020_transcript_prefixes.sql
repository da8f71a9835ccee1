-- The beginnings of transcripts, by their hash: each row names the item that a beginning ends with (context/transcripts/prefix_hashes.py).
-- `version`, `depth`: of the row that appended the item. `exact`: the hash of the first `messages` messages of the request `response_id`.
-- It is NULL if the beginning ends within a message, or if no request is known.
-- `answered`: the beginning has an answer of this store.
CREATE TABLE IF NOT EXISTS transcript_prefixes (
    tenant_id       text    NOT NULL,
    hash            bytea   NOT NULL,
    conversation_id uuid    NOT NULL,
    version         bigint  NOT NULL,
    item_id         text    NOT NULL,
    depth           integer NOT NULL,
    answered        boolean NOT NULL,
    response_id     text,
    messages        integer,
    exact           bytea,
    PRIMARY KEY (tenant_id, hash, conversation_id, version)
);
CREATE INDEX IF NOT EXISTS transcript_prefixes_of_conversation ON transcript_prefixes (conversation_id, version);

-- After the restore of an older dump, the table has rows of events that the log has lost.
DELETE FROM transcript_prefixes AS p WHERE NOT EXISTS (
    SELECT FROM events AS e WHERE e.originator_id = p.conversation_id AND e.originator_version = p.version AND e.item_id = p.item_id);

-- What is deleted is no longer recognised. With an item, all beginnings that contain it are deleted: those that end with it or after it.
-- A trigger does this, so that it happens for every appended event, in the same transaction.
CREATE OR REPLACE FUNCTION remove_transcript_prefixes() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    since bigint := 0;
BEGIN
    IF NEW.topic = 'item.retracted' THEN
        SELECT originator_version INTO since FROM events
        WHERE item_id = NEW.item_id AND originator_id = NEW.originator_id AND tenant_id = NEW.tenant_id AND topic = 'item.appended'
        ORDER BY originator_version LIMIT 1;
    END IF;
    DELETE FROM transcript_prefixes WHERE conversation_id = NEW.originator_id AND version >= since AND tenant_id = NEW.tenant_id;
    RETURN NULL;
END $$;
DROP TRIGGER IF EXISTS remove_transcript_prefixes ON events;
CREATE TRIGGER remove_transcript_prefixes AFTER INSERT ON events
FOR EACH ROW WHEN (NEW.topic IN ('conversation.deleted', 'item.retracted')) EXECUTE FUNCTION remove_transcript_prefixes();

-- As the function of 0016, which this one calls. New: prefixes of the rows `prefix_rows` (from 1), each of which appends an item. If the same transaction also deletes
-- something of the conversation, its prefixes are left out. The function of 0016 stays for processes that still run the earlier code.
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
            SELECT FROM unnest(rows) AS later WHERE later.topic IN ('conversation.deleted', 'item.retracted')
                AND later.originator_id = r.originator_id AND later.originator_version > r.originator_version)
        ON CONFLICT (tenant_id, hash, conversation_id, version) DO UPDATE SET
            item_id = excluded.item_id, depth = excluded.depth, answered = excluded.answered,
            response_id = excluded.response_id, messages = excluded.messages, exact = excluded.exact;
    END IF;
    RETURN positions;
END $$;
