-- The overloads of append_at_once that 0008 superseded (made by 0003, 0004 and 0006). No code calls them any more.
DROP FUNCTION append_at_once(
    uuid[], bigint[],
    uuid[], bigint[], text[], bytea[], text[], text[], timestamptz[], text[], uuid[], text[], bytea[]
);
DROP FUNCTION append_at_once(
    uuid[], bigint[],
    uuid[], bigint[], text[], bytea[], text[], text[], timestamptz[], text[], uuid[], text[], bytea[],
    int[], text[],
    int[], text[], bytea[], bytea[], timestamptz
);
DROP FUNCTION append_at_once(
    uuid[], bigint[],
    uuid[], bigint[], text[], bytea[], text[], text[], timestamptz[], text[], uuid[], text[], bytea[],
    int[], text[], uuid[], int[], text[], uuid[],
    int[], text[], bytea[], bytea[], timestamptz
);
