"""Two generations of a view, document by document, as they were at one moment: what differs, and a digest of each."""

from collections.abc import AsyncIterator
from hashlib import sha256

import msgspec
from msgspec import Struct
from pymongo.asynchronous.client_session import AsyncClientSession

from infrastructure.stores.mongodb import Database, Document
from projections.coalesce import conversation_of
from projections.rebuild.view_builds import BuildGone
from projections.view_positions import PositionMoved
from projections.views.catalog import POSITIONS_COLLECTION, USAGE, MongoView
from projections.views.partitions import ALL_PARTITIONS, position_key, position_keys
from projections.views.view_position import BUILD_SUFFIX

READ_AT_ONCE = 5_000
MAX_LISTED_DIFFERENCES = 20

_encoder = msgspec.json.Encoder(order="sorted", enc_hook=int)  # MongoDB has an int of its own for the long ones


class Comparison(Struct, kw_only=True):
    """What a comparison at `position` found. A digest is the SHA-256 over the documents in order of `_id`, as JSON with sorted keys.

    `named`: the `_id`s of the first documents that differ. Documents of parked conversations are left out; totals can not be
    compared while there are any, and have no digest then.
    """

    view: MongoView
    position: int
    documents: int = 0
    different: int = 0
    named: list[str] = []
    digest: str = ""
    other_digest: str = ""


async def compare(database: Database, view: MongoView) -> Comparison:
    """Compares a view with its other generation. Raises PositionMoved when they do not stand at one position, BuildGone, and PyMongoError."""
    async with database.client.start_session(snapshot=True) as session:
        places = {it["_id"]: it async for it in database[POSITIONS_COLLECTION].find(session=session)}
        if not places.keys() >= {*position_keys([view, f"{view}{BUILD_SUFFIX}"])}:
            raise BuildGone(view)
        pairs = [
            (places[position_key(view, it)], places[position_key(f"{view}{BUILD_SUFFIX}", it)]) for it in ALL_PARTITIONS
        ]
        if any(live["position"] != other["position"] for live, other in pairs):
            raise PositionMoved((view,), pairs[0][0]["position"])
        parked = {name for pair in pairs for place in pair for name in place.get("parked", {})}
        found = Comparison(view=view, position=max(live["position"] for live, _ in pairs), named=[])
        if view == USAGE and parked:
            return found
        digest, other_digest = sha256(), sha256()
        shown = _documents(database, pairs[0][0]["collection"], session, parked)
        made = _documents(database, pairs[0][1]["collection"], session, parked)
        one, two = await anext(shown, None), await anext(made, None)
        while one is not None or two is not None:
            least = min(each["_id"] for each in (one, two) if each is not None)
            left = one if one is not None and one["_id"] == least else None
            right = two if two is not None and two["_id"] == least else None
            if left is not None:
                digest.update(_encoder.encode(left))
                one = await anext(shown, None)
            if right is not None:
                found.documents += 1
                other_digest.update(_encoder.encode(right))
                two = await anext(made, None)
            if left != right:
                found.different += 1
                if len(found.named) < MAX_LISTED_DIFFERENCES:
                    found.named.append(least)
    found.digest, found.other_digest = digest.hexdigest(), other_digest.hexdigest()
    return found


async def _documents(
    database: Database, collection: str, session: AsyncClientSession, parked: set[str]
) -> AsyncIterator[Document]:
    async for document in database[collection].find(session=session, batch_size=READ_AT_ONCE).sort("_id", 1):
        if conversation_of(document)[1] not in parked:
            yield document
