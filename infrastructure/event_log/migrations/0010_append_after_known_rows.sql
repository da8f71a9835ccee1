-- As in 0008, whose function this one replaces. New: the writer also names the hash of the last row that each stream must have
-- (`held_hashes`; empty for a new stream, whose version is 0). So an append never follows a row that the log has lost or that differs.
-- Returns the positions. Returns NULL, and does nothing, if a stream (`held`) does not end with exactly that row, or if a key has an answer
-- that is no older than `keys_since` and whose events are in the log.
DROP FUNCTION append_at_once(
    uuid[], bigint[], append_row[],
    int[], text[], uuid[], int[], text[], uuid[],
    int[], text[], bytea[], bytea[], timestamptz
);

CREATE FUNCTION append_at_once(
    held uuid[], held_versions bigint[], held_hashes bytea[], rows append_row[],
    response_rows int[], response_ids text[], owners uuid[], over_rows int[], over_ids text[], deleted uuid[],
    key_rows int[], keys text[], key_fingerprints bytea[], key_answers bytea[], keys_since timestamptz
) RETURNS bigint[] LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    positions bigint[];
BEGIN
    LOCK TABLE append_turn IN EXCLUSIVE MODE;
    -- A restore of a backup locks the other tables first and this one last. An append that waited for it longer than Postgres's
    -- deadlock_timeout (1 s) would make the restore fail.
    PERFORM set_config('lock_timeout', '500ms', true);
    -- LATERAL with its own ORDER BY makes each of these a look-up by primary key, whatever the planner's statistics say. With the lower
    -- bound, Postgres does not go through all the rows of the stream that are on the same page of the index.
    PERFORM FROM unnest(held, held_versions, held_hashes) AS h (id, version, hash) LEFT JOIN LATERAL (
        SELECT originator_version, chain_hash FROM events WHERE originator_id = h.id AND originator_version >= h.version
        ORDER BY originator_version DESC LIMIT 1
    ) AS newest ON true
    WHERE coalesce(newest.originator_version, 0) <> h.version OR coalesce(newest.chain_hash, '') <> h.hash LIMIT 1;
    IF FOUND THEN
        RETURN NULL;
    END IF;
    IF cardinality(keys) > 0 THEN
        PERFORM FROM unnest(key_rows, keys) AS k (at, key) CROSS JOIN LATERAL (
            SELECT kept.conversation_id, kept.version, kept.command_id FROM idempotency_keys AS kept
            WHERE kept.tenant_id = (rows[k.at]).tenant_id AND kept.key = k.key AND kept.recorded_at >= keys_since
            ORDER BY kept.tenant_id, kept.key LIMIT 1
        ) AS used CROSS JOIN LATERAL (
            SELECT FROM events AS e
            WHERE e.originator_id = used.conversation_id AND e.originator_version = used.version
                AND e.command_id = used.command_id
            ORDER BY e.originator_version LIMIT 1
        ) AS recorded LIMIT 1;
        IF FOUND THEN
            RETURN NULL;
        END IF;
    END IF;
    NOTIFY events;
    WITH inserted AS (
        INSERT INTO events (originator_id, originator_version, topic, state, tenant_id, item_id, recorded_at, subject,
                            command_id, correlation_id, chain_hash)
        SELECT * FROM unnest(rows)
        RETURNING notification_id
    )
    SELECT array_agg(notification_id ORDER BY notification_id) INTO positions FROM inserted;
    IF cardinality(response_ids) > 0 THEN
        INSERT INTO responses (tenant_id, response_id, conversation_id, owner, running)
        SELECT (rows[r.at]).tenant_id, r.id, (rows[r.at]).originator_id, owners[1], true
        FROM unnest(response_rows, response_ids) AS r (at, id);
    END IF;
    IF cardinality(over_ids) > 0 THEN
        FOR at IN 1 .. cardinality(over_ids) LOOP
            UPDATE responses SET running = false
            WHERE tenant_id = (rows[over_rows[at]]).tenant_id AND response_id = over_ids[at];
        END LOOP;
    END IF;
    IF cardinality(deleted) > 0 THEN
        UPDATE responses SET running = false WHERE running AND conversation_id = ANY (deleted);
    END IF;
    IF cardinality(keys) > 0 THEN
        -- A row that exists has expired, or the log has lost its events.
        INSERT INTO idempotency_keys (tenant_id, key, fingerprint, command_id, conversation_id, version, position, answer, recorded_at)
        SELECT (rows[k.at]).tenant_id, k.key, k.fingerprint, (rows[k.at]).command_id, (rows[k.at]).originator_id,
               (rows[k.at]).originator_version, positions[k.at], k.answer, (rows[k.at]).recorded_at
        FROM unnest(key_rows, keys, key_fingerprints, key_answers) AS k (at, key, fingerprint, answer)
        ON CONFLICT (tenant_id, key) DO UPDATE SET
            fingerprint = excluded.fingerprint, command_id = excluded.command_id,
            conversation_id = excluded.conversation_id, version = excluded.version, position = excluded.position,
            answer = excluded.answer, recorded_at = excluded.recorded_at;
    END IF;
    RETURN positions;
END $$;

-- A DELETE by hand waits for the append in progress, and appends wait for the end of that transaction. Otherwise a stream's
-- last row could disappear after an append has checked it.
CREATE FUNCTION take_append_turn() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    LOCK TABLE append_turn IN EXCLUSIVE MODE;
    RETURN NULL;
END $$;
CREATE TRIGGER events_deleted_in_turn BEFORE DELETE ON events FOR EACH STATEMENT EXECUTE FUNCTION take_append_turn();
-- ALWAYS: also in sessions with session_replication_role = replica, in which people load and clean tables.
ALTER TABLE events ENABLE ALWAYS TRIGGER events_deleted_in_turn;
