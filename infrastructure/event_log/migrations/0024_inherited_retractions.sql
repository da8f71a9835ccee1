-- A fork may retract (or restore, see 0023) an item that it inherits. The row names the item, but the fork has no row that appended it. Then
-- all beginnings of transcripts in the fork are deleted, because each of them contains what the fork inherits. Otherwise as in 0020.
CREATE OR REPLACE FUNCTION remove_transcript_prefixes() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    since bigint := 0;
BEGIN
    IF NEW.topic IN ('item.retracted', 'item.restored') THEN
        SELECT originator_version INTO since FROM events
        WHERE item_id = NEW.item_id AND originator_id = NEW.originator_id AND tenant_id = NEW.tenant_id AND topic = 'item.appended'
        ORDER BY originator_version LIMIT 1;
    END IF;
    DELETE FROM transcript_prefixes
    WHERE conversation_id = NEW.originator_id AND version >= coalesce(since, 0) AND tenant_id = NEW.tenant_id;
    RETURN NULL;
END $$;
