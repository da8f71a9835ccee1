"""PostgreSQL, MongoDB, Valkey and a small local model from wheels, run by one supervisor.

`scripts/up` and the tests start them; nothing else imports this package. `python -m infrastructure.embedded` runs the
stores alone.
"""
