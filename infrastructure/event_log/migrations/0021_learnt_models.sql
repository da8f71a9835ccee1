-- What the refusals of a provider taught about its models (context/learnt_models.py). `provider`: its URL, without a password.
-- `fact`: 'window' with the number of tokens, or 'missing:' and an ability that the model does not have. A fact counts for a week.
CREATE TABLE IF NOT EXISTS learnt_models (
    provider  text        NOT NULL,
    model     text        NOT NULL,
    fact      text        NOT NULL,
    tokens    bigint,
    learnt_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, model, fact)
);
