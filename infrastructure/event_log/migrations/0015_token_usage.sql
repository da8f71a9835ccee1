-- The tokens that models were asked for in each calendar month (UTC): of a tenant, of each of its subjects and of each of its API keys.
-- `infrastructure/limits/month.py` adds to them after each reply and each summary, stored or not. Quotas are checked against them.
CREATE TABLE IF NOT EXISTS token_usage (
    tenant_id text NOT NULL,
    month date NOT NULL,
    holder text NOT NULL, -- 'tenant', 'subject' or 'key'
    name text NOT NULL, -- the subject's name, or the key's id; empty for the tenant
    tokens bigint NOT NULL,
    PRIMARY KEY (tenant_id, month, holder, name)
);
