"""The event log: the only truth. One append, in a straight line: `log.py` -> `writer.py` -> `recorder.py` -> Postgres.

`codec.py` turns events into bytes, `chain.py` chains their hashes, `reader.py` reads them back, `migrate.py` owns the schema.
"""
