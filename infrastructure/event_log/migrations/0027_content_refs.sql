-- Which events name which contents. The rows are inserted in the append's own transaction, and the foreign key keeps the content: so no event
-- names a content that is missing. `row_key` is that of the event; `item_id` and `copy_of` are those of the item in it that names the content
-- (domain/named_contents.py). `label`: as in the reference (domain/content_references.py).
CREATE TABLE IF NOT EXISTS content_refs (
    tenant_id     text   NOT NULL,
    originator_id uuid   NOT NULL,
    row_key       text   NOT NULL,
    item_id       text   NOT NULL,
    copy_of       text,
    file_id       uuid   NOT NULL,
    sha256        bytea  NOT NULL,
    size          bigint NOT NULL,
    label         text,
    filename      text,
    subject       text   NOT NULL,
    PRIMARY KEY (tenant_id, originator_id, row_key, item_id, file_id),
    FOREIGN KEY (tenant_id, sha256) REFERENCES contents
);
CREATE INDEX IF NOT EXISTS content_refs_of_file ON content_refs (tenant_id, file_id, item_id);
CREATE INDEX IF NOT EXISTS content_refs_of_content ON content_refs (tenant_id, sha256);

-- What was forked from what, and by whom: a content in an inherited item is readable through the fork. Forks from before this migration
-- inherit no contents.
CREATE TABLE IF NOT EXISTS forks (
    tenant_id text NOT NULL,
    origin_id uuid NOT NULL,
    fork_id   uuid NOT NULL,
    subject   text NOT NULL,
    PRIMARY KEY (tenant_id, origin_id, fork_id)
);

-- With the conversation, its references go. Those of a retracted item stay, because it can be restored: readers check whether it is deleted.
CREATE OR REPLACE FUNCTION remove_content_refs() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    DELETE FROM content_refs WHERE tenant_id = NEW.tenant_id AND originator_id = NEW.originator_id
        AND (NEW.topic = 'conversation.deleted' OR row_key = NEW.item_id);
    RETURN NULL;
END $$;
DROP TRIGGER IF EXISTS remove_content_refs ON events;
CREATE TRIGGER remove_content_refs AFTER INSERT ON events
FOR EACH ROW WHEN (NEW.topic IN ('conversation.deleted', 'reply.deleted')) EXECUTE FUNCTION remove_content_refs();

-- As in 0025, whose function this one replaces. New: the references to contents, and forks.
DROP FUNCTION IF EXISTS append_at_once(
    uuid[], bigint[], bytea[], append_row[],
    int[], text[], uuid[], int[], text[], uuid[],
    int[], text[], bytea[], bytea[], timestamptz,
    int[], bytea[], int[], boolean[], text[], int[], bytea[], bigint[], text[], text[]
);
CREATE OR REPLACE FUNCTION append_at_once(
    held uuid[], held_versions bigint[], held_hashes bytea[], rows append_row[],
    response_rows int[], response_ids text[], owners uuid[], over_rows int[], over_ids text[], deleted uuid[],
    key_rows int[], keys text[], key_fingerprints bytea[], key_answers bytea[], keys_since timestamptz,
    prefix_rows int[], prefix_hashes bytea[], prefix_depths int[], prefix_answered boolean[],
    prefix_responses text[], prefix_messages int[], prefix_exact bytea[],
    prefix_branches bigint[], prefix_leaf_branches text[], prefix_leaf_depths text[],
    ref_rows int[], ref_items text[], ref_copies text[], ref_files uuid[], ref_hashes bytea[], ref_sizes bigint[], ref_labels text[], ref_filenames text[],
    fork_rows int[], fork_origins uuid[]
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
    IF cardinality(ref_rows) > 0 AND positions IS NOT NULL THEN
        INSERT INTO content_refs (tenant_id, originator_id, row_key, item_id, copy_of, file_id, sha256, size, label, filename, subject)
        SELECT r.tenant_id, r.originator_id, r.item_id, c.item, c.copy_of, c.file, c.hash, c.size, c.label, c.filename, r.subject
        FROM unnest(ref_rows, ref_items, ref_copies, ref_files, ref_hashes, ref_sizes, ref_labels, ref_filenames)
            AS c (at, item, copy_of, file, hash, size, label, filename)
        JOIN unnest(rows) WITH ORDINALITY AS r ON r.ordinality = c.at
        WHERE NOT EXISTS (
            SELECT FROM unnest(rows) AS later
            WHERE (later.topic = 'conversation.deleted' OR later.topic = 'reply.deleted' AND later.item_id = r.item_id)
                AND later.originator_id = r.originator_id AND later.originator_version > r.originator_version)
        ON CONFLICT (tenant_id, originator_id, row_key, item_id, file_id) DO NOTHING;
    END IF;
    IF cardinality(fork_rows) > 0 AND positions IS NOT NULL THEN
        INSERT INTO forks (tenant_id, origin_id, fork_id, subject)
        SELECT r.tenant_id, f.origin, r.originator_id, r.subject FROM unnest(fork_rows, fork_origins) AS f (at, origin)
        JOIN unnest(rows) WITH ORDINALITY AS r ON r.ordinality = f.at
        ON CONFLICT (tenant_id, origin_id, fork_id) DO NOTHING;
    END IF;
    RETURN positions;
END $$;
