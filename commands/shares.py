"""Shares of a conversation: create and withdraw."""

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
    if not is_subject(name):
        raise ValueError(f"a subject has 1 to {MAX_SUBJECT_BYTES} bytes without control characters")
    return name


def _everyone(value: object) -> object:
    """The type alone would accept 1, because 1 equals True."""
    if value is not None and value is not True:
        raise ValueError("it must be true: a conversation is shared inside its own tenant only")
    return value


Subject = Annotated[str, AfterValidator(_subject)]
Everyone = Annotated[Literal[True], BeforeValidator(_everyone)]


class ShareTarget(Body):
    """Send one of the two fields. `subject`: a subject of the conversation's tenant. `tenant: true`: everyone of the tenant."""

    subject: Subject | None = None
    tenant: Everyone | None = None


class CreateShare(Body):
    """A new share. It replaces the share with the same subject, or, with `tenant: true`, the share with the tenant."""

    model_config = examples(
        {"with": {"subject": "ben"}, "role": "writer"}, {"with": {"tenant": True}, "role": "reader"}
    )

    shared_with: ShareTarget = Field(alias="with")
    role: Literal["reader", "writer"]


@command_route(router, "POST", PATH, CreateShare, answer=ConversationShare)
async def share_conversation(context: CommandContext, conversation_id: str, body: CreateShare) -> Response:
    """Shares the conversation, or changes the role of a share. Only the conversation's owner and an admin may do this.

    Takes effect with the next request. If the same share exists already, nothing changes. Answers with the share.
    If the conversation would have more than 100 shares, the answer is 409.
    """
    subject = _named(body.shared_with.subject, body.shared_with.tenant, "with")
    share = Share(subject=subject, role=body.role)

    def answer(_: Appended) -> bytes:
        return shapes.encode(share_shape(share))

    return await context.execute(conversation_id, ShareConversation(share=share), answer)


class ShareQuery(QueryParameters):
    """The share to withdraw. Exactly one of the two parameters must be sent."""

    subject: str | None = Field(None, description="The subject whose share is withdrawn.")
    tenant: bool | None = Field(None, description="`true`: the share with everyone of the tenant is withdrawn.")


@command_route(router, "DELETE", PATH, query=ShareQuery, answer=ShareWithdrawn)
async def unshare_conversation(context: CommandContext, conversation_id: str, query: ShareQuery) -> Response:
    """Withdraws one share: the share with `subject`, or with `tenant=true` the share with everyone of the tenant.

    Only the conversation's owner and an admin may do this. Takes effect with the next request. Streams of subjects
    who can no longer read the conversation end within 5 seconds. Answers with a receipt, or with 404 if there is no
    such share.
    """
    subject = _named(query.subject, query.tenant, "subject")

    def receipt(_: Appended) -> bytes:
        return shapes.encode(ShareWithdrawn(shared_with=shared_with(subject), deleted=True))

    return await context.execute(conversation_id, UnshareConversation(subject=subject), receipt)


def _named(subject: str | None, tenant: bool | None, param: str) -> str | None:
    """None for everyone of the tenant. Raises ApiError (400) unless exactly one is named."""
    if (subject is None) == (tenant is None) or tenant is False:
        message = (
            "Send either `subject` (a subject of the conversation's tenant) or `tenant` (true: everyone of the tenant)."
        )
        raise ApiError(400, message, code="invalid_value", param=param)
    return subject
