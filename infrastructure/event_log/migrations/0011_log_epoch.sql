-- The store never removes rows of `events`. If somebody removes rows, the log begins another epoch, and the views are built again:
-- projections/position_loader.py. Each statement below can run again, on a database that an older dump was restored into.
CREATE TABLE IF NOT EXISTS log_epoch (epoch text NOT NULL DEFAULT gen_random_uuid()::text);

-- For both tables: removing rows of `events` removes the epoch, and an epoch that is removed is replaced by another one.
CREATE OR REPLACE FUNCTION begin_log_epoch() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_TABLE_NAME = 'log_epoch' THEN
        INSERT INTO log_epoch SELECT gen_random_uuid()::text WHERE NOT EXISTS (SELECT FROM log_epoch);
    ELSE
        DELETE FROM log_epoch;
    END IF;
    RETURN NULL;
END $$;

-- A DELETE that removed nothing begins no epoch. (Triggers of TRUNCATE cannot see the rows, so this is a function of its own.)
CREATE OR REPLACE FUNCTION begin_log_epoch_if_removed() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF EXISTS (SELECT FROM removed) THEN
        DELETE FROM log_epoch;
    END IF;
    RETURN NULL;
END $$;

DROP TRIGGER IF EXISTS begin_log_epoch ON log_epoch;
DROP TRIGGER IF EXISTS begin_log_epoch ON events;
DROP TRIGGER IF EXISTS begin_log_epoch_at_truncate ON log_epoch;
DROP TRIGGER IF EXISTS begin_log_epoch_at_truncate ON events;
CREATE TRIGGER begin_log_epoch AFTER DELETE ON log_epoch FOR EACH STATEMENT EXECUTE FUNCTION begin_log_epoch();
CREATE TRIGGER begin_log_epoch AFTER DELETE ON events REFERENCING OLD TABLE AS removed
    FOR EACH STATEMENT EXECUTE FUNCTION begin_log_epoch_if_removed();
-- A TRUNCATE of several tables fires these when all are empty.
CREATE TRIGGER begin_log_epoch_at_truncate AFTER TRUNCATE ON log_epoch FOR EACH STATEMENT EXECUTE FUNCTION begin_log_epoch();
CREATE TRIGGER begin_log_epoch_at_truncate AFTER TRUNCATE ON events FOR EACH STATEMENT EXECUTE FUNCTION begin_log_epoch();
-- ALWAYS: also in sessions with session_replication_role = replica, in which people load and clean tables.
ALTER TABLE log_epoch ENABLE ALWAYS TRIGGER begin_log_epoch, ENABLE ALWAYS TRIGGER begin_log_epoch_at_truncate;
ALTER TABLE events ENABLE ALWAYS TRIGGER begin_log_epoch, ENABLE ALWAYS TRIGGER begin_log_epoch_at_truncate;

DELETE FROM log_epoch; -- its trigger inserts one
