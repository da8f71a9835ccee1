-- The state of a stream at some version, so that a process loads one row and the few events after it. Any row may be deleted.
CREATE TABLE snapshots (
    originator_id      uuid   PRIMARY KEY,
    originator_version bigint NOT NULL,
    state              bytea  NOT NULL
);
ALTER TABLE snapshots ALTER COLUMN state SET STORAGE EXTERNAL;
