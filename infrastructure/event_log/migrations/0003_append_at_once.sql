-- Appends a batch in one round trip: takes the append lock, checks that every stream is still at the version that the batch was decided
-- on (`held`, `held_versions`), inserts and notifies. Returns NULL, and does nothing, if a stream has moved. Each statement of a
-- volatile function sees what was committed before it began (READ COMMITTED), so what is read under the lock is current.
CREATE FUNCTION append_at_once(
    held uuid[], held_versions bigint[],
    originator_ids uuid[], originator_versions bigint[], topics text[], states bytea[], tenant_ids text[], item_ids text[],
    recorded timestamptz[], subjects text[], command_ids uuid[], correlation_ids text[], chain_hashes bytea[]
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
    NOTIFY events;
    WITH inserted AS (
        INSERT INTO events (originator_id, originator_version, topic, state, tenant_id, item_id, recorded_at, subject,
                            command_id, correlation_id, chain_hash)
        SELECT * FROM unnest(originator_ids, originator_versions, topics, states, tenant_ids, item_ids, recorded, subjects,
                             command_ids, correlation_ids, chain_hashes)
        RETURNING notification_id
    )
    SELECT array_agg(notification_id ORDER BY notification_id) INTO positions FROM inserted;
    RETURN positions;
END $$;
