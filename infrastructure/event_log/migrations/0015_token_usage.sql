-- The tokens that requests to models used in each calendar month (UTC): those of a tenant, of each of its subjects and of each of its API keys.
-- `infrastructure/limits/month.py` adds to these counts after each reply, summary and title, stored or not. Quotas are checked against them.
CREATE TABLE IF NOT EXISTS token_usage (
    tenant_id text NOT NULL,
    month date NOT NULL,
    holder text NOT NULL, -- 'tenant', 'subject' or 'key'
    name text NOT NULL, -- the subject's name, or the key's id; empty for the tenant
    tokens bigint NOT NULL,
    PRIMARY KEY (tenant_id, month, holder, name)
);
