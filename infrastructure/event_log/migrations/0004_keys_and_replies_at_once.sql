-- Does what the function of 0003 does. In the same round trip it also checks and inserts idempotency keys, and inserts responses.
-- Returns NULL, and does nothing, if a stream has moved, or if a key was already recorded at `keys_since` or later.
-- `response_rows` and `key_rows`: the number (from 1) of the row that each response and each key belongs to.
-- The function of 0003 has fewer arguments. It stays for processes that still run the earlier code.
CREATE FUNCTION append_at_once(
    held uuid[], held_versions bigint[],
    originator_ids uuid[], originator_versions bigint[], topics text[], states bytea[], tenant_ids text[], item_ids text[],
    recorded timestamptz[], subjects text[], command_ids uuid[], correlation_ids text[], chain_hashes bytea[],
    response_rows int[], response_ids text[],
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
            WHERE kept.tenant_id = tenant_ids[k.at] AND kept.key = k.key AND kept.recorded_at >= keys_since
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
        SELECT * FROM unnest(originator_ids, originator_versions, topics, states, tenant_ids, item_ids, recorded, subjects,
                             command_ids, correlation_ids, chain_hashes)
        RETURNING notification_id
    )
    SELECT array_agg(notification_id ORDER BY notification_id) INTO positions FROM inserted;
    IF cardinality(response_ids) > 0 THEN
        INSERT INTO responses (tenant_id, response_id, conversation_id)
        SELECT tenant_ids[r.at], r.id, originator_ids[r.at] FROM unnest(response_rows, response_ids) AS r (at, id);
    END IF;
    IF cardinality(keys) > 0 THEN
        INSERT INTO idempotency_keys AS kept
            (tenant_id, key, fingerprint, command_id, conversation_id, version, position, answer, recorded_at)
        SELECT tenant_ids[k.at], k.key, k.fingerprint, command_ids[k.at], originator_ids[k.at], originator_versions[k.at],
               positions[k.at], k.answer, recorded[k.at]
        FROM unnest(key_rows, keys, key_fingerprints, key_answers) AS k (at, key, fingerprint, answer)
        ON CONFLICT (tenant_id, key) DO UPDATE SET
            fingerprint = excluded.fingerprint, command_id = excluded.command_id,
            conversation_id = excluded.conversation_id, version = excluded.version, position = excluded.position,
            answer = excluded.answer, recorded_at = excluded.recorded_at
        WHERE kept.recorded_at < keys_since;
    END IF;
    RETURN positions;
END $$;

-- Expired keys are found and deleted by age.
CREATE INDEX idempotency_keys_recorded_at_idx ON idempotency_keys USING brin (recorded_at);
