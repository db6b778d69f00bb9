"""A private replica set of several mongods, for tests of failovers."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from .._override import override
from ._mongod import Mongod, connected
from ._mongod_process import HOST, MongodProcess, MongodStartError
from ._replica_set import REPLICA_SET, initiate

__all__ = ["MongodSet"]

_TIMEOUT = 60.0
_POLL_INTERVAL = 0.05
# A member that does not answer for so long counts as lost.
_ANSWER_MS = 500
_INITIATE_MS = 20_000

_Found = TypeVar("_Found")


class MongodSet:
    """A private replica set of several mongods that only this machine can reach.

    Use it as a context manager, or call ``start`` and ``stop``. Each member is a ``Mongod`` that can be killed,
    paused, resumed and restarted. A lost primary is replaced after about two seconds.

    Args:
        size: The number of members.
        binary: The mongod to run; found by ``find_mongod`` when not given.
        parameters: Server parameters; see ``Mongod``.

    Raises:
        MongodNotFoundError: When there is no mongod to run.
    """

    def __init__(self, size: int = 3, *, binary: Path | None = None, parameters: Mapping[str, str] = {}) -> None:
        self._members = tuple(_Member(binary=binary, parameters=parameters) for _ in range(size))

    def __enter__(self) -> "MongodSet":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def uri(self) -> str:
        """Connection string that names every member."""
        return f"mongodb://{','.join(map(_address, self._members))}/?replicaSet={REPLICA_SET}"

    @property
    def members(self) -> tuple[Mongod, ...]:
        """The servers, in the order in which they were started."""
        return self._members

    def start(self) -> None:
        """Start the members and wait until one of them takes writes and the others follow.

        Raises:
            MongodStartError: When a member ends, or the set is not complete in time.
        """
        try:
            for member in self._members:
                member.start()
            with _client(self._members[0], _INITIATE_MS) as client:
                initiate(client, [_address(member) for member in self._members])
            self.wait_until_complete()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the members; their data are deleted."""
        for member in self._members:
            member.stop()

    def primary(self) -> Mongod:
        """Return the member that takes writes; waits until there is one.

        Raises:
            MongodStartError: When there is none in time.
        """
        return _eventually(self._find_primary)

    def secondaries(self) -> list[Mongod]:
        """Return the other members, in any state."""
        primary = self.primary()
        return [member for member in self._members if member is not primary]

    def wait_until_complete(self) -> None:
        """Wait until every member runs, one takes writes, and the others follow it.

        Raises:
            MongodStartError: When the set is not complete in time.
        """
        _eventually(lambda: self._is_complete() or None)

    def _find_primary(self) -> Mongod | None:
        # A resumed member stays a primary for a moment; the primary is the one that most members follow.
        followed = [hello.get("primary") for hello in map(_hello, self._members)]
        majority = [member for member in self._members if followed.count(_address(member)) > len(followed) // 2]
        return next((member for member in majority if _hello(member).get("isWritablePrimary")), None)

    def _is_complete(self) -> bool:
        hellos = [_hello(member) for member in self._members]
        writable = [hello["me"] for hello in hellos if hello.get("isWritablePrimary")]
        following = [hello for hello in hellos if hello.get("secondary") and [hello.get("primary")] == writable]
        return len(writable) == 1 and len(following) == len(hellos) - 1


class _Member(Mongod):
    """A mongod whose primary is elected by its set."""

    @override
    def _wait_until_ready(self, process: MongodProcess, port: int) -> None:
        with connected(process, port):
            pass


def _address(member: Mongod) -> str:
    return f"{HOST}:{member.port}"


def _client(member: Mongod, answer_ms: int) -> MongoClient[dict[str, Any]]:
    return MongoClient[dict[str, Any]](
        HOST,
        member.port,
        directConnection=True,
        serverSelectionTimeoutMS=answer_ms,
        connectTimeoutMS=answer_ms,
        socketTimeoutMS=answer_ms,
    )


def _hello(member: Mongod) -> dict[str, Any]:
    """Return the ``hello`` of a member; an empty dict if it does not answer."""
    try:
        with _client(member, _ANSWER_MS) as client:
            hello: dict[str, Any] = client.admin.command("hello")
    except PyMongoError:
        return {}
    return hello


def _eventually(find: Callable[[], _Found | None]) -> _Found:
    deadline = time.monotonic() + _TIMEOUT
    while (found := find()) is None:
        if time.monotonic() > deadline:
            raise MongodStartError(f"The replica set did not come to rest in {_TIMEOUT:.0f} s.")
        time.sleep(_POLL_INTERVAL)
    return found
