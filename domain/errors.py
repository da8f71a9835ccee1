"""Why a command was refused, and why a model did not answer. Errors carry ids, never what people wrote.

    Refused
    ├── NotFound
    │   ├── ConversationNotFound   (never started, or deleted)
    │   ├── ItemNotFound           (never appended, or retracted)
    │   └── ResponseNotFound       (never requested)
    ├── Conflict
    │   ├── ConversationIsEnded
    │   ├── ConversationExists
    │   ├── ConversationLocked     (a reply runs in it)
    │   ├── HeadHasMoved
    │   ├── ReplyIsOver
    │   ├── ReplyIsRunning
    │   ├── SummaryHasChanged
    │   ├── NothingToUndo
    │   ├── NothingToCompact
    │   └── TooManyPins
    └── ContextTooLong

    ModelFailed                    (the provider did not answer as it should)

Which HTTP status each one has stands in one table: `infrastructure/http/errors.py`.
"""


class Refused(Exception):
    """A command that the rules do not allow. `code` is stable, for programs; the message is for people."""

    code = "refused"


class NotFound(Refused):
    code = "not_found"


class ConversationNotFound(NotFound):
    def __init__(self, conversation_id: str) -> None:
        super().__init__(f"No conversation {conversation_id} exists here.")


class ItemNotFound(NotFound):
    def __init__(self, item_id: str) -> None:
        super().__init__(f"No item {item_id} exists in this conversation.")


class ResponseNotFound(NotFound):
    def __init__(self, response_id: str) -> None:
        super().__init__(f"No response {response_id} exists here.")


class Conflict(Refused):
    code = "conflict"


class ConversationIsEnded(Conflict):
    code = "conversation_ended"

    def __init__(self, conversation_id: str) -> None:
        super().__init__(f"Conversation {conversation_id} has ended: reopen it to go on.")


class ConversationExists(Conflict):
    code = "conversation_exists"

    def __init__(self, conversation_id: str) -> None:
        super().__init__(f"Conversation {conversation_id} exists already.")


class ReplyIsOver(Conflict):
    code = "response_over"

    def __init__(self, response_id: str) -> None:
        super().__init__(f"Response {response_id} has ended already.")


class ConversationLocked(Conflict):
    """It is worth a retry: the reply that runs will end."""

    code = "conversation_locked"

    def __init__(self, conversation_id: str) -> None:
        super().__init__(f"A response is in progress in conversation {conversation_id}: try again when it has ended.")


class HeadHasMoved(Conflict):
    code = "head_moved"

    def __init__(self, conversation_id: str) -> None:
        super().__init__(f"Conversation {conversation_id} has gone on meanwhile.")


class ReplyIsRunning(Conflict):
    code = "response_in_progress"

    def __init__(self, response_id: str) -> None:
        super().__init__(f"Response {response_id} is in progress: cancel it first.")


class SummaryHasChanged(Conflict):
    code = "summary_changed"

    def __init__(self, conversation_id: str) -> None:
        super().__init__(f"Another summary of conversation {conversation_id} was made meanwhile.")


class NothingToUndo(Conflict):
    code = "nothing_to_undo"

    def __init__(self, conversation_id: str, verb: str) -> None:
        super().__init__(f"Conversation {conversation_id} has no compaction to {verb}.")


class NothingToCompact(Conflict):
    """All of it, or nothing more of it, fits."""

    code = "nothing_to_compact"

    def __init__(self, conversation_id: str) -> None:
        super().__init__(f"Conversation {conversation_id} has nothing that a summary could stand for.")


class TooManyPins(Conflict):
    code = "too_many_pins"

    def __init__(self, most: int) -> None:
        super().__init__(f"A conversation has at most {most} pinned items: unpin one first.")


class ContextTooLong(Refused):
    """What must be sent does not fit: `tokens` of it against a `budget`, both in tokens."""

    code = "context_length_exceeded"

    def __init__(self, tokens: int, budget: int) -> None:
        super().__init__(
            f"This request needs {tokens} tokens with its instructions, and {budget} are left for it in the model's context window."
        )
        self.tokens = tokens
        self.budget = budget


class ModelFailed(Exception):
    """The model provider did not answer as it should. `message` holds no content, neither the provider's nor the user's. `code`:

    model_error              it refused, broke off, or sent something we do not understand
    model_timeout            it was too slow (`timed_out`)
    model_rate_limited       it answered 429; `retry_after`: seconds, when the provider names them
    model_unavailable        the circuit breaker is open: no request was sent; `retry_after`: seconds
    model_not_found          it does not have the model
    context_length_exceeded  the request is longer than the model's context window

    `unreachable`: it was not reached, did not answer, or answered 5xx: an immediate retry is of no use.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        timed_out: bool = False,
        unreachable: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.timed_out = timed_out
        self.unreachable = unreachable
        self.retry_after = retry_after
