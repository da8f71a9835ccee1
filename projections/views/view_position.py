"""How far a view has come: one document of the collection `projections` per view and partition.

    {_id: "items/3", view: "items", bucket: 3, collection, version, state, position, chain_hash, incarnation, target,
     lease, epoch, repairs, held,
     parked: {conversation_id: {tenant, position, version, topic, error, message, at, repair, done}}}

`bucket` is the partition. The view shows the partition's events up to `position`. `chain_hash` and `incarnation`
identify the log of these events. `state` is `rebuilding` until `position` reaches `target`, the end of the log when the
view was started or rebuilt. After that, `state` is `live`. Transactions increment `held` to lock the document.
`projections/view_positions.py` explains `lease` and `epoch`. `projections/rebuild/view_builds.py` explains second
builds, such as `items+`.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from infrastructure.event_log.incarnation import LogPosition
from projections.views.partitions import ALL_PARTITIONS, position_key

BUILD_SUFFIX = "+"
"""Ends the name of a second build, such as `items+`."""


class Parked(Struct, frozen=True, kw_only=True):
    """A parked conversation. The entry never holds what people wrote.

    `at`: microseconds since 1970 (UTC). `repair`: the repair that has claimed the conversation. `done`: the version
      that this repair has reached.
    """

    tenant: str
    position: int
    version: int
    topic: str
    error: str
    message: str | None = None
    at: int
    repair: str | None = None
    done: int = 0


class ViewPosition(Struct, frozen=True):
    """How far a view is in one partition.

    `repairs`: how many parked conversations were repaired. `version`: the view's version when the documents were built.
    """

    view: str
    partition: int
    position: int
    state: str
    target: int = 0
    epoch: int = 0
    lease: int = 0
    parked: Mapping[str, Parked] = {}
    collection: str = ""
    repairs: int = 0
    version: int = 1
    chain_hash: str = ""
    incarnation: str = ""

    @property
    def log_position(self) -> LogPosition:
        return LogPosition(self.position, self.chain_hash, self.incarnation)

    def is_of(self, incarnation: str) -> bool:
        """Whether the view was built from the log of this incarnation, or is empty."""
        return self.position <= 0 or self.incarnation == incarnation

    def shows_same_log_part(self, other: "ViewPosition") -> bool:
        return self.position == other.position and (self.position <= 0 or self.log_position == other.log_position)

    def is_same(self, other: "ViewPosition") -> bool:
        return (self.key, self.position, self.epoch) == (other.key, other.position, other.epoch)

    @property
    def key(self) -> str:
        return position_key(self.view, self.partition)

    @property
    def base_view(self) -> str:
        return self.view.removesuffix(BUILD_SUFFIX)

    @property
    def is_live(self) -> bool:
        return self.state == "live"

    def advanced(self, new: LogPosition, released: Collection[str] = ()) -> "ViewPosition":
        state = "live" if new.position >= self.target else self.state
        after = replace(
            self, position=new.position, chain_hash=new.chain_hash, incarnation=new.incarnation, state=state
        )
        if not released:
            return after
        parked = {conversation: entry for conversation, entry in self.parked.items() if conversation not in released}
        return replace(after, epoch=self.epoch + 1, parked=parked)

    def parked_of(self, tenant: str) -> list[str]:
        return [conversation for conversation, entry in self.parked.items() if entry.tenant == tenant]


class ViewStatus(Struct, frozen=True):
    """`position`: the lowest position of the view's partitions."""

    view: str
    position: int
    state: str
    parked: Mapping[str, Parked]
    collection: str
    version: int


def position_from(document: Mapping[str, Any]) -> ViewPosition:
    """`target`, `epoch` and `lease` may be missing in the document, because queries do not read these fields."""
    parked = document.get("parked")
    return ViewPosition(
        view=document["view"],
        partition=document["bucket"],
        position=document["position"],
        state=document["state"],
        target=document.get("target", 0),
        epoch=document.get("epoch", 0),
        lease=document.get("lease", 0),
        parked=msgspec.convert(parked, dict[str, Parked]) if parked else {},
        collection=document["collection"],
        repairs=document.get("repairs", 0),
        version=document.get("version", 1),
        chain_hash=document.get("chain_hash", ""),
        incarnation=document.get("incarnation", ""),
    )


def no_position(view: str, partition: int) -> ViewPosition:
    """No projector has started the view, or the position was lost."""
    return ViewPosition(view=view, partition=partition, position=-1, state="absent")


def missing_positions(positions: Iterable[ViewPosition]) -> list[tuple[str, int]]:
    """(view, partition) of each missing position. A view without any position is left out."""
    partitions: defaultdict[str, set[int]] = defaultdict(set)
    for position in positions:
        partitions[position.view].add(position.partition)
    return [
        (view, partition)
        for view, present in partitions.items()
        for partition in ALL_PARTITIONS
        if partition not in present
    ]


def status_of(positions: Sequence[ViewPosition]) -> ViewStatus:
    states = {position.state for position in positions}
    return ViewStatus(
        view=positions[0].view,
        position=max(0, min(position.position for position in positions)),
        state="absent" if "absent" in states else "live" if states == {"live"} else "rebuilding",
        parked={conversation: entry for position in positions for conversation, entry in position.parked.items()},
        collection=positions[0].collection,
        version=positions[0].version,
    )


def view_statuses(positions: Iterable[ViewPosition]) -> dict[str, ViewStatus]:
    by_view: defaultdict[str, list[ViewPosition]] = defaultdict(list)
    for position in positions:
        by_view[position.view].append(position)
    return {view: status_of(of_view) for view, of_view in by_view.items()}
