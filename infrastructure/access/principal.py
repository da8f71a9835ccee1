"""Who is asking: the tenant whose data it is and the subject that acts. Every handler and every query takes one."""

from msgspec import Struct


class Principal(Struct, frozen=True):
    """`tenant` begins every key, index and document; `subject` stands on every event as who caused it."""

    tenant: str
    subject: str


DEFAULT = Principal(tenant="default", subject="anonymous")
"""The one principal there is while AUTH_MODE is `none`."""
