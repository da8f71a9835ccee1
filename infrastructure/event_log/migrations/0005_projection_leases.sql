-- Which projector has which buckets of the views in hand (projections/leases.py). A projector is alive until its moment passes.
CREATE TABLE projectors (
    id uuid PRIMARY KEY,
    alive_until timestamptz NOT NULL
);

CREATE TABLE projection_leases (
    bucket smallint PRIMARY KEY,
    holder uuid,
    lease bigint NOT NULL -- rises with each new holder
);
