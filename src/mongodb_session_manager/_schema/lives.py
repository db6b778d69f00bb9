"""One life of a session id, from its creation to its deletion, and the documents that belong to it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from bson import ObjectId

from .ids import now
from .values import FilterAndUpdate, Stored

# Children without an instance go only if they are older: a process of an older version may be writing them.
OLDER_THAN = timedelta(hours=1)
# No ObjectId is older.
FIRST_ID_TIME = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class Life:
    """A session in one of the lives of its id.

    Attributes:
        session_id: The session.
        instance: Tells this life from earlier and later ones; None if the session has none.
    """

    session_id: str
    instance: ObjectId | None

    @property
    def fields(self) -> Stored:
        """The fields that tell a child's session."""
        instance = {} if self.instance is None else {"instance": self.instance}
        return {"session_id": self.session_id, **instance}

    @property
    def children(self) -> Stored:
        """The filter of its children; of older ones only the session is known."""
        return {"session_id": self.session_id, "instance": {"$in": [self.instance, None]}}

    @property
    def files(self) -> Stored:
        """The filter of its files."""
        return _of_files(self.children)

    @property
    def own_files(self) -> Stored:
        """The filter of the files that no other life can have."""
        return _of_files({"session_id": self.session_id, "instance": self.instance})


def _of_files(wanted: Stored) -> Stored:
    return {f"metadata.{name}": value for name, value in wanted.items()}


def instance_of(stored: object) -> ObjectId | None:
    """Return the instance of a session or child that was read; None if it has none."""
    found = stored.get("instance") if isinstance(stored, Mapping) else None
    return found if isinstance(found, ObjectId) else None


def new_instance_update(life: Life, found: Mapping[str, Any], schema_version: int) -> FilterAndUpdate:
    """Return filter and update that give a session of an older version what it has not, if it is as it was found."""
    wanted = {"_id": life.session_id, **{name: {"$eq": found.get(name)} for name in ("instance", "schema_version")}}
    version = found.get("schema_version")
    changed = {"instance": life.instance, "schema_version": schema_version if version is None else version}
    return wanted, {"$set": changed}


def adopted_segments_update(life: Life) -> FilterAndUpdate:
    """Return filter and update that give older segments of a session its instance."""
    return {"session_id": life.session_id, "instance": None}, {"$set": {"instance": life.instance}}


def adopted_files_update(life: Life) -> FilterAndUpdate:
    """Return filter and update that give older files of a session its instance."""
    wanted, update = adopted_segments_update(life)
    return _of_files(wanted), {"$set": _of_files(update["$set"])}


def ended_life_filter(life: Life) -> Stored:
    """Return the filter of the session in this life, for its deletion."""
    return {"_id": life.session_id, "instance": life.instance}


def youngest_old_id() -> ObjectId:
    """Return the id that a child of an unknown life must be below to go."""
    return ObjectId.from_datetime(now() - OLDER_THAN)
