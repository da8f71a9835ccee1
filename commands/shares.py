"""POST and DELETE of shares: share a conversation with a subject or with everyone of its tenant, and withdraw a share. `queries/shares.py` lists them."""

from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import AfterValidator, BeforeValidator, Field
from starlette.responses import Response

from commands.bodies import Body, examples
from commands.command_route import CommandContext, command_route
from domain.commands import ShareConversation, UnshareConversation
from domain.events import Share
from infrastructure.access.identity import MAX_SUBJECT_BYTES, is_subject
from infrastructure.event_log.append_request import Appended
from infrastructure.http import shapes
from infrastructure.http.errors import ApiError
from infrastructure.http.query_parameters import QueryParameters
from infrastructure.http.share_shapes import ConversationShare, ShareWithdrawn, share_shape, shared_with

router = APIRouter()

PATH = "/v1/conversations/{conversation_id}/shares"


def _subject(name: str) -> str:
    """The name. Raises ValueError if no subject can have it."""
    if not is_subject(name):
        raise ValueError(f"a subject has 1 to {MAX_SUBJECT_BYTES} bytes without control characters")
    return name


def _everyone(value: object) -> object:
    """The value. Raises ValueError if it is neither true nor null. The type alone would accept 1, which equals True."""
    if value is not None and value is not True:
        raise ValueError("it must be true: a conversation is shared inside its own tenant only")
    return value


Subject = Annotated[str, AfterValidator(_subject)]
Everyone = Annotated[Literal[True], BeforeValidator(_everyone)]


class Whom(Body):
    """Send one of the two. `subject`: a subject of the conversation's tenant. `tenant: true`: everyone of the tenant."""

    subject: Subject | None = None
    tenant: Everyone | None = None


class CreateShare(Body):
    """The whole share. There is at most one with each subject and one with the tenant."""

    model_config = examples(
        {"with": {"subject": "ben"}, "role": "writer"}, {"with": {"tenant": True}, "role": "reader"}
    )

    shared_with: Whom = Field(alias="with")
    role: Literal["reader", "writer"]


@command_route(router, "POST", PATH, CreateShare, answer=ConversationShare)
async def share_conversation(context: CommandContext, conversation_id: str, body: CreateShare) -> Response:
    """Shares the conversation, or gives a share another role. Only its owner and an admin may. The same share again changes nothing.

    Effective on the next request. Answers with the share; 409 with more than 100 shares.
    """
    subject = _named(body.shared_with.subject, body.shared_with.tenant, "with")
    share = Share(subject=subject, role=body.role)

    def answer(_: Appended) -> bytes:
        return shapes.encode(share_shape(share))

    return await context.execute(conversation_id, ShareConversation(share=share), answer)


class ShareQuery(QueryParameters):
    """One of the two must be sent."""

    subject: str | None = Field(None, description="The subject whose share is withdrawn.")
    tenant: bool | None = Field(None, description="`true`: the share with everyone of the tenant is withdrawn.")


@command_route(router, "DELETE", PATH, query=ShareQuery, answer=ShareWithdrawn)
async def unshare_conversation(context: CommandContext, conversation_id: str, query: ShareQuery) -> Response:
    """Withdraws one share. `subject` names whose share it is; `tenant=true` means the share with everyone of the tenant. Only the owner and an admin may.

    Effective on the next request; streams that are open end within 5 seconds. Answers with a receipt; 404 if there is no such share.
    """
    subject = _named(query.subject, query.tenant, "subject")

    def receipt(_: Appended) -> bytes:
        return shapes.encode(ShareWithdrawn(shared_with=shared_with(subject), deleted=True))

    return await context.execute(conversation_id, UnshareConversation(subject=subject), receipt)


def _named(subject: str | None, tenant: bool | None, param: str) -> str | None:
    """The subject of a share; None for everyone of the tenant. Raises ApiError (400) if neither or both are named."""
    if (subject is None) == (tenant is None) or tenant is False:
        message = "Name either `subject`, one subject of the conversation's tenant, or `tenant`: true, everyone of it."
        raise ApiError(400, message, code="invalid_value", param=param)
    return subject
