"""Real servers out of wheels, under one supervisor: PostgreSQL, MongoDB, Valkey and a small local model.

`scripts/up` and the tests start them; nothing else imports this package. `python -m infrastructure.embedded` runs the
stores alone.
"""
