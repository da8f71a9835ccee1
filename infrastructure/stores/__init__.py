"""Clients of Postgres, MongoDB and Redis."""
