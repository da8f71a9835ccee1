"""A model in memory of who may see what."""

from collections.abc import Iterator

from msgspec import Struct, field

from infrastructure.access.principal import Principal


class ModelItem(Struct, eq=False):
    """An item. `word`: its text. `parent`: the item before this one. `original`: the item that this one is a copy of."""

    id: str
    word: str
    conversation: "ModelConversation"
    parent: "ModelItem | None" = None
    original: "ModelItem | None" = None
    retracted: bool = False

    @property
    def is_deleted(self) -> bool:
        is_gone = self.retracted or self.conversation.deleted
        return is_gone or (self.original is not None and self.original.is_deleted)

    @property
    def path(self) -> "list[ModelItem]":
        """All items from the first one to this one, deleted items too."""
        path, item = [self], self.parent
        while item is not None:
            path.insert(0, item)
            item = item.parent
        return path


class ModelResponse(Struct, eq=False):
    id: str
    conversation: "ModelConversation"
    items: list[ModelItem]
    """The items that the response added."""
    deleted: bool = False


class ModelConversation(Struct, eq=False, kw_only=True):
    """A conversation, and who may see it.

    `head`: the last item of the active path. In a new fork, this is an item of the origin.

    `items`: the conversation's own items, on all branches. `shares`: the role of each subject; None stands for all.
    """

    id: str
    owner: Principal
    title: str = ""
    listed: bool = True
    head: ModelItem | None = None
    shares: dict[str | None, str] = field(default_factory=dict)
    items: list[ModelItem] = field(default_factory=list)
    responses: list[ModelResponse] = field(default_factory=list)
    deleted: bool = False

    def role(self, principal: Principal) -> str | None:
        """None if the principal may not see the conversation."""
        if self.deleted or principal.tenant != self.owner.tenant:
            return None
        if principal.may("admin") or principal.subject == self.owner.subject:
            return "owner"
        roles = {self.shares.get(None), self.shares.get(principal.subject)} - {None}
        return "writer" if "writer" in roles else "reader" if roles else None

    @property
    def path(self) -> list[ModelItem]:
        """The items of the active path, with inherited and deleted ones."""
        return self.head.path if self.head is not None else []

    def add(self, item_id: str, word: str, original: ModelItem | None = None) -> ModelItem:
        self.head = ModelItem(item_id, word, self, self.head, original)
        self.items.append(self.head)
        return self.head

    def delete_response(self, response: ModelResponse) -> None:
        """Deletes the response.

        An unlisted conversation loses the response's items, and is deleted if nothing is left.
        """
        response.deleted = True
        if self.listed:
            return
        others = [item for item in self.items if not item.retracted and item not in response.items]
        if not others and all(other.deleted for other in self.responses):
            self.deleted = True
        for item in response.items:
            item.retracted = True


class AccessModel(Struct):
    conversations: list[ModelConversation] = field(default_factory=list)

    def visible_to(self, principal: Principal) -> Iterator[ModelConversation]:
        return (conversation for conversation in self.conversations if conversation.role(principal) is not None)

    def words_of(self, principal: Principal) -> set[str]:
        return {
            word
            for conversation in self.visible_to(principal)
            for word in (
                conversation.title,
                *(item.word for item in (*conversation.path, *conversation.items) if not item.is_deleted),
            )
        }
