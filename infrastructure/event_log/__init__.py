"""The event log in Postgres: the only source of truth. Everything else can be rebuilt from it.

One append, file by file:

1. `append_request.py`: a handler makes an AppendRequest from the command, its conversation, `If-Match` and the idempotency key.
2. `log.py`: `EventLog.append` queues the request and awaits the result. Two tasks take batches from the queue. Each task loads the streams
   that the cache lacks (`streams.py`, `stream_loader.py`). Then it decides the requests for which the cached streams are enough.
3. `queue.py` decides when a batch starts, and which requests are in it.
4. `batch_decider.py`: `decide` turns each command into events, `codec.py` encodes the events, and `rows.py` makes a row of each event.
   `chain.py` computes the hash of each row, which covers the hash of the row before it. The result is a BatchPlan (`batch_plan.py`) with
   its Write (`write.py`).
5. `stores/postgres_pipeline.py` sends the Write as one call of the SQL function `append_at_once` (its newest version is in migrations/0025, and calls the version of 0022). This function takes the
   append lock, and checks that no stream has moved (has got other rows since it was read) and that no key is in use. It inserts the rows,
   notifies, and returns the positions. Then the transaction commits.
6. `batch_plan.py` caches the new streams and makes each caller's Appended. `snapshotter.py` may write a snapshot in its own thread.

`locked_append.py` takes over if a stream has moved, a key is in use, or the answer of Postgres was lost. It also takes over if a command is
refused, changes nothing, or needs the state of an item. It takes the append lock through `recorder.py`, looks up the rows whose outcome is
unknown, decides on what the log says now, and commits. If nothing is to be appended, it does not take the lock.

Reading: `reader.py` returns events in the types of `recorded.py`; `version_lookup.py` finds a conversation's last version.
Setup: `datastore.py` connects, `migrate.py` creates and changes the schema, `key_sweeper.py` deletes expired idempotency keys.
"""
