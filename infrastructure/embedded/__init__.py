"""PostgreSQL, MongoDB, Valkey and a small local model, installed as Python wheels and run by one supervisor.

Only `scripts/` and the tests import this package. `python -m infrastructure.embedded` runs the stores alone.
"""
