"""The event log in Postgres: the only source of truth.

One append, file by file:

1. `append_request.py`: a handler makes an AppendRequest.
2. `log.py`: two tasks take batches from the queue. `streams.py` caches streams, `stream_loader.py` loads the others.
3. `queue.py` decides when a batch starts, and what is in it.
4. `batch_decider.py` decides each command. `codec.py` encodes the events, `rows.py` makes rows, `chain.py` hashes them. The result is a
   BatchPlan (`batch_plan.py`) with its Write (`write.py`).
5. `stores/postgres_pipeline.py` calls the SQL function `append_at_once` (migrations/0027, which calls the version of 0022).
6. `batch_plan.py` makes the results. `snapshotter.py` writes snapshots.

`locked_append.py` and `recorder.py` take over if cached streams are not enough, a stream has moved, or an answer was
lost.
"""
