-- Replies that wait for their turn (reply.queued). The column `running` now says that a reply has not ended: it runs or waits. When a
-- waiting reply is requested, its row in `responses` already exists. From then on it belongs to the process that requested it.

-- As in 0016, with one change: a row of `responses` that exists gets a new owner.
CREATE OR REPLACE FUNCTION append_at_once(
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
            SELECT kept.tenant_id, kept.conversation_id, kept.version, kept.command_id FROM idempotency_keys AS kept
            WHERE kept.tenant_id = (rows[k.at]).tenant_id AND kept.subject = (rows[k.at]).subject AND kept.key = k.key
                AND kept.recorded_at >= keys_since
            ORDER BY kept.tenant_id, kept.key, kept.subject LIMIT 1
        ) AS used CROSS JOIN LATERAL (
            SELECT FROM events AS e
            WHERE e.originator_id = used.conversation_id AND e.originator_version = used.version
                AND e.command_id = used.command_id AND e.tenant_id = used.tenant_id
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
    -- A stream belongs to the tenant of its first row. Only a writer that forgot to check that gets here.
    PERFORM FROM (SELECT DISTINCT originator_id, tenant_id FROM unnest(rows)) AS appended CROSS JOIN LATERAL (
        SELECT e.tenant_id FROM events AS e WHERE e.originator_id = appended.originator_id
        ORDER BY e.originator_version LIMIT 1
    ) AS first WHERE first.tenant_id <> appended.tenant_id LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'A row of one tenant cannot follow rows of another.' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF cardinality(response_ids) > 0 THEN
        INSERT INTO responses (tenant_id, response_id, conversation_id, owner, running)
        SELECT (rows[r.at]).tenant_id, r.id, (rows[r.at]).originator_id, owners[1], true
        FROM unnest(response_rows, response_ids) AS r (at, id)
        ON CONFLICT (tenant_id, response_id) DO UPDATE SET owner = excluded.owner, running = true;
    END IF;
    IF cardinality(over_ids) > 0 THEN
        FOR at IN 1 .. cardinality(over_ids) LOOP
            UPDATE responses SET running = false
            WHERE tenant_id = (rows[over_rows[at]]).tenant_id AND response_id = over_ids[at];
        END LOOP;
    END IF;
    IF cardinality(deleted) > 0 THEN
        UPDATE responses AS r SET running = false FROM (SELECT DISTINCT originator_id, tenant_id FROM unnest(rows)) AS appended
        WHERE r.running AND r.conversation_id = ANY (deleted) AND r.conversation_id = appended.originator_id
            AND r.tenant_id = appended.tenant_id;
    END IF;
    IF cardinality(keys) > 0 THEN
        -- A row that exists has expired, or the log has lost its events.
        INSERT INTO idempotency_keys
            (tenant_id, subject, key, fingerprint, command_id, conversation_id, version, position, answer, recorded_at)
        SELECT (rows[k.at]).tenant_id, (rows[k.at]).subject, k.key, k.fingerprint, (rows[k.at]).command_id, (rows[k.at]).originator_id,
               (rows[k.at]).originator_version, positions[k.at], k.answer, (rows[k.at]).recorded_at
        FROM unnest(key_rows, keys, key_fingerprints, key_answers) AS k (at, key, fingerprint, answer)
        ON CONFLICT (tenant_id, key, subject) DO UPDATE SET
            fingerprint = excluded.fingerprint, command_id = excluded.command_id,
            conversation_id = excluded.conversation_id, version = excluded.version, position = excluded.position,
            answer = excluded.answer, recorded_at = excluded.recorded_at;
    END IF;
    RETURN positions;
END $$;
