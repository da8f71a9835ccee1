"""The event log in Postgres: the only source of truth. Everything else can be rebuilt from it.

One append, file by file:

1. `append_request.py`: a handler makes an AppendRequest from the command, its conversation, `If-Match` and the idempotency key.
2. `log.py`: `EventLog.append` queues it and awaits the result. Two tasks take batches from the queue; each loads missing streams into the
   cache (`streams.py`, `stream_loader.py`), then decides those requests for which the cached streams are enough.
3. `queue.py` decides when a batch starts, and which requests are in it.
4. `batch_decider.py`: `decide` turns each command into events, `codec.py` encodes them, `rows.py` makes rows of them and `chain.py`
   hashes each onto the one before. The result is a BatchPlan (`batch_plan.py`) with its Write (`write.py`).
5. `stores/postgres_pipeline.py`: sends the Write as one call of the SQL function `append_at_once` (its newest version is in migrations/0016). It takes the
   append lock, checks that no stream has moved and no key is in use, inserts, notifies and returns the positions. Then the transaction commits.
6. `batch_plan.py` caches the new streams and makes each caller's Appended. `snapshotter.py` may write a snapshot in its own thread.

`locked_append.py` takes over if a stream has moved, a key is in use, an answer was lost, or a command is refused, changes nothing or needs
the state of an item. It first answers without the lock what the log refuses. Then it takes the append lock through `recorder.py`, looks up
the rows whose outcome is unknown, decides the remaining requests on what the log says, and commits.

Reading: `reader.py` returns events in the types of `recorded.py`; `version_lookup.py` finds a conversation's last version.
Setup: `datastore.py` connects, `migrate.py` owns the schema, `key_sweeper.py` deletes expired idempotency keys.
"""
