-- Which projector updates which partitions (`bucket`) of the views: projections/leases.py. A projector is alive until `alive_until`.
CREATE TABLE projectors (
    id uuid PRIMARY KEY,
    alive_until timestamptz NOT NULL
);

CREATE TABLE projection_leases (
    bucket smallint PRIMARY KEY,
    holder uuid,
    lease bigint NOT NULL -- grows with each new holder
);
