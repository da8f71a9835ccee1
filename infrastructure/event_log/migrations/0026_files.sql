-- Contents of files, once per tenant, under their SHA-256. The bytes are in rows of bounded size, which are read one at a time. Each statement
-- can run again on a database into which an older dump was restored.
--
-- `written_at`: when somebody last stored these bytes. What nothing names is collected a day later (infrastructure/contents/collection.py).
CREATE TABLE IF NOT EXISTS contents (
    tenant_id  text        NOT NULL,
    sha256     bytea       NOT NULL,
    size       bigint      NOT NULL,
    written_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, sha256)
);
CREATE INDEX IF NOT EXISTS contents_by_age ON contents (written_at);

CREATE TABLE IF NOT EXISTS content_rows (
    tenant_id text    NOT NULL,
    sha256    bytea   NOT NULL,
    number    integer NOT NULL,
    bytes     bytea   NOT NULL,
    PRIMARY KEY (tenant_id, sha256, number),
    FOREIGN KEY (tenant_id, sha256) REFERENCES contents ON DELETE CASCADE
);
-- Photos and PDFs are compressed already.
ALTER TABLE content_rows ALTER COLUMN bytes SET STORAGE EXTERNAL;

-- What was uploaded. The foreign key keeps the content.
CREATE TABLE IF NOT EXISTS files (
    tenant_id       text        NOT NULL,
    file_id         uuid        NOT NULL,
    subject         text        NOT NULL,
    sha256          bytea       NOT NULL,
    size            bigint      NOT NULL,
    filename        text        NOT NULL,
    purpose         text        NOT NULL,
    media_type      text        NOT NULL,
    created_at      timestamptz NOT NULL,
    expires_at      timestamptz,
    idempotency_key text,
    PRIMARY KEY (tenant_id, file_id),
    FOREIGN KEY (tenant_id, sha256) REFERENCES contents
);
CREATE INDEX IF NOT EXISTS files_of_subject ON files (tenant_id, subject, file_id);
CREATE INDEX IF NOT EXISTS files_of_content ON files (tenant_id, sha256);
CREATE INDEX IF NOT EXISTS files_by_expiry ON files (expires_at) WHERE expires_at IS NOT NULL;
CREATE UNIQUE INDEX IF NOT EXISTS files_by_key ON files (tenant_id, subject, idempotency_key) WHERE idempotency_key IS NOT NULL;
