"""Errors: why a command was refused, and why a model did not answer. They carry ids, never what people wrote.

    Refused
    ├── NotFound
    │   ├── ConversationNotFound   (never started, deleted, or not visible to the caller)
    │   ├── ItemNotFound           (never appended, or retracted)
    │   ├── ResponseNotFound       (never requested, or deleted)
    │   ├── CompletionNotFound     (a chat completion that does not exist, was not stored, or is deleted)
    │   ├── FeedbackNotFound       (the caller gave none)
    │   └── ShareNotFound
    ├── Conflict
    │   ├── ConversationIsEnded
    │   ├── ConversationExists
    │   ├── ConversationLocked     (another reply runs, or must run first)
    │   ├── HeadHasMoved           (the head is not the item that the command expects)
    │   ├── PathHasChanged         (the head was moved after the context of the request was read)
    │   ├── HistoryLost            (the event store was restored meanwhile)
    │   ├── ItemsDeleted           (items were deleted or restored after the request or the title was made from them)
    │   ├── ReplyIsOver
    │   ├── SummaryHasChanged      (the summary, an item or the active path was changed while a new summary was made)
    │   ├── TitleExists
    │   ├── NothingToUndo
    │   ├── NothingToCompact
    │   ├── TooManyBranches
    │   ├── TooManyPins
    │   ├── TooManyQueued
    │   └── TooManyShares
    ├── NotAllowed                 (the caller's role in the conversation does not allow it)
    ├── SharedWithOwner
    └── ContextTooLong

    ReplyLost                      (the event store was restored while the reply ran)
    ModelFailed                    (the provider did not answer as it should)

`infrastructure/http/errors.py` has the table of their HTTP statuses.
"""

from msgspec import Struct


class Refused(Exception):
    """The rules do not allow the command. `code` is stable, for programs; the message is for people."""

    code = "refused"


class NotFound(Refused):
    code = "not_found"


class ConversationNotFound(NotFound):
    def __init__(self, conversation_id: str) -> None:
        super().__init__(f"There is no conversation {conversation_id}.")


class ItemNotFound(NotFound):
    def __init__(self, item_id: str) -> None:
        super().__init__(f"There is no item {item_id} in this conversation.")


class ResponseNotFound(NotFound):
    def __init__(self, response_id: str) -> None:
        super().__init__(f"There is no response {response_id}.")


class CompletionNotFound(NotFound):
    def __init__(self, completion_id: str) -> None:
        super().__init__(f"There is no chat completion {completion_id}.")


class FeedbackNotFound(NotFound):
    code = "feedback_not_found"

    def __init__(self, target: str) -> None:
        super().__init__(f"You have given no feedback to {target}.")


class ShareNotFound(NotFound):
    code = "share_not_found"

    def __init__(self, conversation_id: str) -> None:
        super().__init__(
            f"Conversation {conversation_id} has no such share. GET its shares to see whom it is shared with."
        )


class Conflict(Refused):
    code = "conflict"


class ConversationIsEnded(Conflict):
    code = "conversation_ended"

    def __init__(self, conversation_id: str) -> None:
        super().__init__(f"Conversation {conversation_id} has ended. Reopen it first.")


class ConversationExists(Conflict):
    code = "conversation_exists"

    def __init__(self, conversation_id: str) -> None:
        super().__init__(f"Conversation {conversation_id} already exists.")


class ReplyIsOver(Conflict):
    code = "response_over"

    def __init__(self, response_id: str) -> None:
        super().__init__(f"Response {response_id} has already ended.")


class ConversationLocked(Conflict):
    """A retry can succeed: the reply that runs, or must run first, will end."""

    code = "conversation_locked"

    def __init__(self, conversation_id: str) -> None:
        super().__init__(
            f"Another response runs or waits in conversation {conversation_id}. Try again when it has ended."
        )


class HeadHasMoved(Conflict):
    code = "head_moved"

    def __init__(self, conversation_id: str) -> None:
        super().__init__(f"The head of conversation {conversation_id} has changed since the conversation was read.")


class HistoryLost(Conflict):
    """The command was made from events that the log has lost since then. A retry uses the events that the log has now."""

    code = "history_lost"

    def __init__(self, conversation_id: str) -> None:
        super().__init__(f"Conversation {conversation_id} was restored to an earlier state meanwhile. Try again.")


class ItemsDeleted(Conflict):
    """On a retry, the model is shown the items that are not deleted then."""

    code = "conversation_changed"

    def __init__(self, conversation_id: str) -> None:
        super().__init__(
            f"Items of conversation {conversation_id} were deleted or restored while the request was prepared. Try again."
        )


class InputHasJoined(Conflict):
    """On a retry, the items of the input that joined the conversation are copied."""

    code = "conversation_changed"

    def __init__(self, conversation_id: str) -> None:
        super().__init__(
            f"Items of the input joined conversation {conversation_id} while the request was prepared. Try again."
        )


class PathHasChanged(Conflict):
    """On a retry, the model is shown the path that is active then."""

    code = "conversation_changed"

    def __init__(self, conversation_id: str) -> None:
        super().__init__(
            f"The head of conversation {conversation_id} was moved while the request was prepared. Try again."
        )


class SummaryHasChanged(Conflict):
    code = "summary_changed"

    def __init__(self, conversation_id: str) -> None:
        super().__init__(
            f"The summary, an item or the head of conversation {conversation_id} was changed while a summary was made. Try again."
        )


class TitleExists(Conflict):
    code = "title_exists"

    def __init__(self, conversation_id: str) -> None:
        super().__init__(f"Conversation {conversation_id} already has a title.")


class NothingToUndo(Conflict):
    code = "nothing_to_undo"

    def __init__(self, conversation_id: str, action: str) -> None:
        super().__init__(f"Conversation {conversation_id} has no compaction to {action}.")


class NothingToCompact(Conflict):
    """Everything fits, there is no room for a summary, a turn is too long to be summarized, or the model wrote no summary."""

    code = "nothing_to_compact"

    def __init__(self, conversation_id: str) -> None:
        super().__init__(
            f"No summary of conversation {conversation_id} was made: everything fits, there is no room for a summary, a turn is too long, or the model wrote nothing."
        )


class TooManyBranches(Conflict):
    code = "too_many_branches"

    def __init__(self, message: str) -> None:
        super().__init__(f"{message} Fork the conversation, and go on in the fork.")


class TooManyPins(Conflict):
    code = "too_many_pins"

    def __init__(self, max_pins: int) -> None:
        super().__init__(f"A conversation has at most {max_pins} pinned items. Unpin one first.")


class TooManyQueued(Conflict):
    """A retry can succeed: the replies that wait get their turn."""

    code = "too_many_queued"

    def __init__(self, conversation_id: str, max_queued: int) -> None:
        super().__init__(
            f"{max_queued} responses wait in conversation {conversation_id} already. Try again when one of them has started."
        )


class TooManyShares(Conflict):
    code = "too_many_shares"

    def __init__(self, max_shares: int) -> None:
        super().__init__(
            f"A conversation has at most {max_shares} shares. Withdraw one first, or share it with the whole tenant."
        )


class NotAllowed(Refused):
    code = "not_allowed"

    def __init__(self, conversation_id: str, role: str) -> None:
        super().__init__(f"You are a {role} of conversation {conversation_id}. A {role} may not do this.")


class SharedWithOwner(Refused):
    code = "shared_with_owner"

    def __init__(self, conversation_id: str) -> None:
        super().__init__(
            f"Conversation {conversation_id} cannot be shared with its owner, who may do everything already."
        )


class ContextTooLong(Refused):
    """The request needs at least `tokens`, but only `budget` are allowed.

    `tokens` counts what is always sent (instructions, tools, summary, pinned items) and the newest turn. If the request disables
    truncation, it counts the whole conversation.
    """

    code = "context_length_exceeded"

    def __init__(self, tokens: int, budget: int, *, window_is_known: bool = True) -> None:
        hint = "" if window_is_known else " The window of this model is not known: the setting MODELS can name it."
        super().__init__(
            f"This request needs {tokens} tokens, instructions included. Its context budget is {budget} tokens.{hint}"
        )
        self.tokens = tokens
        self.budget = budget


class ReplyLost(Exception):
    """The log has lost the request of a running reply. Nothing of the reply is stored."""

    code = "response_lost"

    def __init__(self, response_id: str) -> None:
        super().__init__(
            f"Response {response_id} is lost: the event store was restored to a time before it was requested. Send the request again."
        )


class RefusedRequest(Struct, frozen=True):
    """What a provider's refusal of a request says, without its text.

    `mentions`: the abilities of a model that the refusal mentions, such as "image". `lacks`: those of `mentions` that the
    model does not have, according to the refusal. `lacks_words`: the few words that say so, such as "not support".
    """

    mentions: frozenset[str]
    lacks: frozenset[str] = frozenset()
    lacks_words: str = ""


class ModelFailed(Exception):
    """The model provider did not answer as it should. `message` has no text of the provider or the user.

    The values of `code`:

    model_error              the provider refused, could not be reached, stopped early, or sent something we do not understand
    model_timeout            the provider was too slow (`timed_out`)
    model_rate_limited       the provider answered 429; `retry_after`: seconds, if the provider names them
    model_unavailable        the circuit breaker of the model is open: no request was sent; `retry_after`: seconds
    model_not_found          the provider does not have the model
    context_length_exceeded  the provider refused the request because it is longer than the model's context window

    `window`: the model's context window in tokens, if the provider named it when it refused the request.
    `unreachable`: the provider was not reached, did not answer in time, or answered 502, 503 or 504. The circuit breaker counts these failures.
    `refused`: what the refusal says about the model's abilities. None if the failure is not such a refusal.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        timed_out: bool = False,
        unreachable: bool = False,
        retry_after: float | None = None,
        refused: RefusedRequest | None = None,
        window: int | None = None,
    ) -> None:
        super().__init__(message)
        self.window = window
        self.code = code
        self.message = message
        self.refused = refused
        self.timed_out = timed_out
        self.unreachable = unreachable
        self.retry_after = retry_after
