"""`X-Subject` names the end user that a request is for. The header needs the scope `act_as`."""

from typing import Final

from msgspec import structs
from starlette.datastructures import Headers

from infrastructure.access.identity import MAX_SUBJECT_BYTES, is_subject
from infrastructure.access.principal import Principal, Scope
from infrastructure.access.refusals import InvalidSubject, NotPermitted

HEADER: Final = "X-Subject"
_OF_A_USER: Final[tuple[Scope, ...]] = ("read", "write", "reply")


def acting_as(principal: Principal, headers: Headers) -> Principal:
    """The principal of the request: the user in `X-Subject`, or else `principal`.

    The user never gets `admin` or `audit`. Raises NotPermitted and InvalidSubject.
    """
    sent = headers.getlist(HEADER)
    if not sent:
        return principal
    if not principal.may("act_as"):
        raise NotPermitted(
            "missing_scope", "`X-Subject` needs the scope `act_as`, which the credential does not have.", HEADER
        )
    if len(sent) > 1:
        raise InvalidSubject("`X-Subject` was sent more than once.")
    try:
        subject = sent[0].encode("latin-1").decode()  # Starlette decodes headers as Latin-1
    except UnicodeError:
        subject = ""
    if not is_subject(subject):
        raise InvalidSubject(f"`X-Subject` must be 1 to {MAX_SUBJECT_BYTES} bytes of UTF-8 without control characters.")
    scopes = frozenset(scope for scope in _OF_A_USER if principal.may(scope))
    return structs.replace(principal, subject=subject, scopes=scopes)
