"""All contenders, in the order of the tables."""

from collections.abc import Collection

from contender import Contender
from floors import AsyncFloor, AsyncFloorInAgent, Floor, FloorInAgent, GuardedFloorInAgent, MessageDocuments
from managers import BareAgent, File, OursAsync, OursExit, OursInService, OursSync, Snapshot

CONTENDERS: tuple[type[Contender], ...] = (
    Floor,
    AsyncFloor,
    BareAgent,
    FloorInAgent,
    AsyncFloorInAgent,
    GuardedFloorInAgent,
    MessageDocuments,
    File,
    Snapshot,
    OursSync,
    OursAsync,
    OursExit,
    OursInService,
)

# What the others are compared with.
REFERENCES = (Floor.name, AsyncFloor.name, BareAgent.name, AsyncFloorInAgent.name)


def chosen(names: Collection[str]) -> list[type[Contender]]:
    """Return the contenders with these names and those that they are compared with; all without names."""
    return [kind for kind in CONTENDERS if not names or kind.name in names or kind.name in REFERENCES]
