-- A process is alive while its `beat` changes (infrastructure/stores/heartbeats.py). The clock of Postgres is not used for this.
ALTER TABLE projectors DROP COLUMN alive_until, ADD COLUMN beat bigint NOT NULL DEFAULT 0;
ALTER TABLE api_processes DROP COLUMN alive_until, ADD COLUMN beat bigint NOT NULL DEFAULT 0;
