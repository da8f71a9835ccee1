"""Who sends a request: a tenant, and a subject in it. Every command and every query receives one."""

from msgspec import Struct


class Principal(Struct, frozen=True):
    """`tenant` owns the data: every key and index begins with it. `subject` is recorded with every event that it causes."""

    tenant: str
    subject: str


DEFAULT = Principal(tenant="default", subject="anonymous")
"""The only principal while AUTH_MODE is `none`."""
