-- A row of `events` as a writer sends it: the columns that the INSERT below names, in this order. The insert assigns the position.
CREATE TYPE append_row AS (
    originator_id uuid, originator_version bigint, topic text, state bytea, tenant_id text, item_id text,
    recorded_at timestamptz, subject text, command_id uuid, correlation_id text, chain_hash bytea
);

-- As in 0006, whose function stays for processes that still run the earlier code. New: one array of rows instead of an array per column.
-- Unnesting eleven arrays took Postgres as long as inserting their contents.
-- Returns the positions. Returns NULL, and does nothing, if a stream (`held`) is past its version in `held_versions`, or if a key
-- already has an answer that is no older than `keys_since`.
CREATE FUNCTION append_at_once(
    held uuid[], held_versions bigint[], rows append_row[],
    response_rows int[], response_ids text[], owners uuid[], over_rows int[], over_ids text[], deleted uuid[],
    key_rows int[], keys text[], key_fingerprints bytea[], key_answers bytea[], keys_since timestamptz
) RETURNS bigint[] LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    positions bigint[];
BEGIN
    LOCK TABLE append_turn IN EXCLUSIVE MODE;
    PERFORM FROM unnest(held, held_versions) AS h (id, version) CROSS JOIN LATERAL (
        SELECT FROM events WHERE originator_id = h.id AND originator_version > h.version LIMIT 1
    ) AS newer LIMIT 1;
    IF FOUND THEN
        RETURN NULL;
    END IF;
    IF cardinality(keys) > 0 THEN
        -- LATERAL with its own ORDER BY makes this a look-up by primary key, whatever the planner's statistics say.
        PERFORM FROM unnest(key_rows, keys) AS k (at, key) CROSS JOIN LATERAL (
            SELECT FROM idempotency_keys AS kept
            WHERE kept.tenant_id = (rows[k.at]).tenant_id AND kept.key = k.key AND kept.recorded_at >= keys_since
            ORDER BY kept.tenant_id, kept.key LIMIT 1
        ) AS used LIMIT 1;
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
        INSERT INTO idempotency_keys AS kept
            (tenant_id, key, fingerprint, command_id, conversation_id, version, position, answer, recorded_at)
        SELECT (rows[k.at]).tenant_id, k.key, k.fingerprint, (rows[k.at]).command_id, (rows[k.at]).originator_id,
               (rows[k.at]).originator_version, positions[k.at], k.answer, (rows[k.at]).recorded_at
        FROM unnest(key_rows, keys, key_fingerprints, key_answers) AS k (at, key, fingerprint, answer)
        ON CONFLICT (tenant_id, key) DO UPDATE SET
            fingerprint = excluded.fingerprint, command_id = excluded.command_id,
            conversation_id = excluded.conversation_id, version = excluded.version, position = excluded.position,
            answer = excluded.answer, recorded_at = excluded.recorded_at
        WHERE kept.recorded_at < keys_since;
    END IF;
    RETURN positions;
END $$;
