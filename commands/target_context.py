"""The context of a reply at its target."""

from msgspec import UNSET

from commands.command_route import CommandContext
from commands.reply_target import ReplyTarget
from context.assembly import Context
from context.branch_paths import active_segment
from context.choice import ReplyRequest
from domain.paths import PathSegment, origin_of


async def target_segment(context: CommandContext, target: ReplyTarget) -> PathSegment:
    """The newest segment of the path that the model is shown."""
    assert target.source is not None
    if target.fork is not None and target.fork.forked_from is not None:
        return origin_of(target.fork.forked_from)
    if target.leaf is not None:
        return PathSegment(target.source, target.version, target.leaf.path)
    return await active_segment(context.dependencies.reader, target.source, target.version)


async def assemble_context(context: CommandContext, target: ReplyTarget, reply_request: ReplyRequest) -> Context:
    """Assembles the context, without a new summary. Raises ContextTooLong."""
    contexts = context.dependencies.contexts
    if target.fork is not None:
        assert target.at is not None
        return await contexts.assemble_fork(target.fork, target.at, reply_request)
    if target.leaf is not None and target.at is not None:
        return await contexts.assemble_path(await target_segment(context, target), target.at, reply_request)
    if target.snapshot is not UNSET:
        choice = await contexts.choose_with_snapshot(target.source, target.at, reply_request, target.snapshot)
        return await contexts.render(reply_request, choice)
    return await contexts.assemble(target.source, target.at, reply_request)
