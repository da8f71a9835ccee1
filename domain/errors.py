"""Errors: why a command was refused, and why a model did not answer. Errors carry ids, never what people wrote.

Refused
├── NotFound
│   ├── ConversationNotFound   (or not visible to the caller)
│   ├── ItemNotFound           (or retracted)
│   ├── ResponseNotFound       (or deleted)
│   ├── CompletionNotFound     (or not stored, or deleted)
│   ├── FeedbackNotFound
│   ├── FileNotFound           (or deleted, expired, or not visible to the caller)
│   └── ShareNotFound
├── Conflict
│   ├── ConversationIsEnded
│   ├── ConversationExists
│   ├── ConversationLocked     (another reply runs, or must run first)
│   ├── HeadHasMoved           (the head is not the item that the command expects)
│   ├── PathHasChanged         (the head was moved while the request was prepared)
│   ├── InputHasJoined         (items of the input joined meanwhile)
│   ├── HistoryLost            (the event store was restored meanwhile)
│   ├── ItemsDeleted           (items were deleted or restored meanwhile)
│   ├── ReplyIsOver
│   ├── SummaryHasChanged
│   ├── TitleExists
│   ├── NothingToUndo
│   ├── NothingToCompact
│   ├── TooManyBranches
│   ├── TooManyPins
│   ├── TooManyQueued
│   └── TooManyShares
├── NotAllowed                 (by the caller's role in the conversation)
├── SharedWithOwner
├── ContextTooLong
├── ContentsTooLarge           (images and files for one request to a provider)
└── ContentGone                (an image or file was deleted meanwhile)

ReplyLost                      (the event store was restored while the reply ran)
ModelFailed                    (the provider did not answer as it should)
"""

from msgspec import Struct


class Refused(Exception):
    """Programs read `code`, which is stable. People read the message."""

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


class FileNotFound(NotFound):
    def __init__(self, file_id: str) -> None:
        super().__init__(f"There is no file {file_id}.")


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
    """The command was made from events that the log has lost."""

    code = "history_lost"

    def __init__(self, conversation_id: str) -> None:
        super().__init__(f"Conversation {conversation_id} was restored to an earlier state meanwhile. Try again.")


class ItemsDeleted(Conflict):
    code = "conversation_changed"

    def __init__(self, conversation_id: str) -> None:
        super().__init__(
            f"Items of conversation {conversation_id} were deleted or restored while the request was prepared. Try again."
        )


class InputHasJoined(Conflict):
    """When the request is made again, it has copies of the items that joined."""

    code = "conversation_changed"

    def __init__(self, conversation_id: str) -> None:
        super().__init__(
            f"Items of the input joined conversation {conversation_id} while the request was prepared. Try again."
        )


class PathHasChanged(Conflict):
    code = "conversation_changed"

    def __init__(self, conversation_id: str) -> None:
        super().__init__(
            f"The head of conversation {conversation_id} was moved while the request was prepared. Try again."
        )


class SummaryHasChanged(Conflict):
    code = "summary_changed"

    def __init__(self, conversation_id: str) -> None:
        super().__init__(
            f"A summary, an item or the head of conversation {conversation_id} was changed meanwhile. Try again."
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


class ContentsTooLarge(Refused):
    code = "request_too_large"

    def __init__(self, limit: int) -> None:
        super().__init__(f"The images and files for the model have more than {limit} bytes together, as base64.")


class ContentGone(Refused):
    code = "file_not_found"

    def __init__(self, file_id: str) -> None:
        super().__init__(f"The file {file_id} was deleted meanwhile.")


class ContextTooLong(Refused):
    """`tokens` counts what is always sent and the newest turn. Without truncation, it counts the whole conversation."""

    code = "context_length_exceeded"

    def __init__(self, tokens: int, budget: int, *, window_is_known: bool = True) -> None:
        hint = "" if window_is_known else " The window of this model is not known: the setting MODELS can name it."
        super().__init__(
            f"This request needs {tokens} tokens, instructions included. Its context budget is {budget} tokens.{hint}"
        )
        self.tokens = tokens
        self.budget = budget


class ReplyLost(Exception):
    """Nothing of the reply is stored."""

    code = "response_lost"

    def __init__(self, response_id: str) -> None:
        super().__init__(
            f"Response {response_id} is lost: the event store was restored to a time before it was requested. Send the request again."
        )


class RefusedRequest(Struct, frozen=True):
    """What a provider's refusal says, without its text.

    mentions     abilities of a model, such as "image"
    lacks        abilities that the model does not have
    lacks_words  the words about missing abilities, such as "not support"
    """

    mentions: frozenset[str]
    lacks: frozenset[str] = frozenset()
    lacks_words: str = ""


class ModelFailed(Exception):
    """The model gave no usable answer. `message` has no text of the provider or the user. `code`, for example:

    model_error              the provider refused, could not be reached, stopped early, or sent something we do not understand
    model_unavailable        the circuit breaker of the model is open: no request was sent
    context_length_exceeded  the request is longer than the model's context window

    retry_after  seconds, if known
    window       the model's context window in tokens, if the provider named it
    unreachable  no connection, no answer in time, or 502, 503 or 504. The circuit breaker counts these failures
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
