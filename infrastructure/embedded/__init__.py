"""PostgreSQL, MongoDB, Valkey and a small local model, installed as Python wheels and run by one supervisor."""
