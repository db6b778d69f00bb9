"""The states of Graphs and Swarms."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from .._schema.blobs import file_digests, offload_state, put_back_state
from .._schema.data import (
    multi_agent_pipeline,
    multi_agent_projection,
    multi_agent_update,
    new_multi_agent_update,
    without_state_file_filter,
)
from .._schema.ids import check_id
from .._schema.multi_agents import (
    MultiAgentState,
    StoredState,
    capture_multi_agent,
    decode_multi_agent,
    encode_multi_agent,
    multi_agent_label,
)
from .._schema.values import Stored, escape_key
from ..errors import AgentNotFoundError, SessionConflictError, SessionTooLargeError
from ..types import LeaseDoc, MultiAgentDoc
from .large_values import LargeValues, MissingValueError
from .operation import CONTENDED, Operations, operation
from .restoring import Restoring

if TYPE_CHECKING:
    from strands.multiagent.base import MultiAgentBase

__all__ = ["MultiAgentStore"]

_REMEDY = "another state in its place with the repository's update_multi_agent()."


@dataclass(frozen=True)
class _Seen:
    """The result of a look at the state that was to be written."""

    lease: LeaseDoc | None
    is_in_file: bool


class MultiAgentStore:
    """The states of Graphs and Swarms in one repository's sessions.

    Args:
        operations: Of the repository.
        values: Large values.
    """

    def __init__(self, operations: Operations, values: LargeValues) -> None:
        self._operations, self._values = operations, values

    def create_multi_agent(self, session_id: str, multi_agent: "MultiAgentBase") -> None:
        """Store the state of a Graph or Swarm for the first time."""
        captured = capture_multi_agent(session_id, multi_agent)
        self.write_multi_agent(session_id, multi_agent.id, captured, create=True)

    def update_multi_agent(self, session_id: str, multi_agent: "MultiAgentBase") -> None:
        """Replace the stored state of a Graph or Swarm."""
        self.write_multi_agent(session_id, multi_agent.id, capture_multi_agent(session_id, multi_agent))

    def write_multi_agent(
        self, session_id: str, multi_agent_id: str, state: Mapping[str, Any] | MultiAgentState, *, create: bool = False
    ) -> None:
        """Store a state, serialised or captured."""
        check_id("multi_agent_id", multi_agent_id)
        if not isinstance(state, MultiAgentState):
            state = encode_multi_agent(session_id, multi_agent_id, state)
        fields, files = offload_state(state.fields)
        try:
            self._store(session_id, multi_agent_id, fields, files, create=create, waits=state.waits)
        except SessionTooLargeError:
            if files:
                raise
            # The session document has no room left.
            fields, files = offload_state(state.fields, limit=0)
            self._store(session_id, multi_agent_id, fields, files, create=create, waits=state.waits)

    def _store(
        self,
        session_id: str,
        multi_agent_id: str,
        fields: Stored,
        files: Mapping[str, bytes],
        *,
        create: bool,
        waits: bool,
    ) -> None:
        def send(*, over_files: bool = False) -> bool:
            return self._write(session_id, multi_agent_id, fields, create=create, over_files=over_files, waits=waits)

        def write(seen: _Seen | None) -> bool:
            if seen is None:  # a state in files is uploaded only once a look has shown that it can be written
                return not files and send()
            in_files = bool(files) or seen.is_in_file
            return self._values.around(session_id, files, lambda: send(over_files=in_files), replaces=in_files)

        def look() -> _Seen:
            return self._look(session_id, multi_agent_id, create=create)

        if not self._operations.write_again(session_id, write, look):
            raise SessionConflictError(session_id, multi_agent_id, CONTENDED)

    def _write(
        self,
        session_id: str,
        multi_agent_id: str,
        fields: Stored,
        *,
        create: bool,
        over_files: bool = False,
        waits: bool = False,
    ) -> bool:
        """Write a state; False if the stored one is not as expected, or if it is in a file that would be left over."""
        shape = new_multi_agent_update if create else multi_agent_update
        condition = {} if create or over_files else without_state_file_filter(multi_agent_id)
        wanted, update = shape(session_id, multi_agent_id, fields, interrupted=waits)
        with operation("write_multi_agent", session_id, multi_agent_id):
            return self._operations.update(session_id, ({**wanted, **condition}, update))

    def _look(self, session_id: str, multi_agent_id: str, *, create: bool) -> _Seen:
        """Raise if a state cannot be written; otherwise return the lease, and whether the state is in a file."""
        with operation("read_multi_agent", session_id, multi_agent_id):
            session = self._operations.find(session_id, multi_agent_projection(multi_agent_id))
        stored: MultiAgentDoc | None = session.get("multi_agents", {}).get(escape_key(multi_agent_id))
        if stored is not None and create:
            raise SessionConflictError(session_id, multi_agent_id, "exists already; update it instead.")
        if stored is None and not create:
            raise AgentNotFoundError(session_id, multi_agent_id)
        return _Seen(session.get("lease"), bool(stored and stored.get("files")))

    def read_multi_agent(self, session_id: str, multi_agent_id: str) -> StoredState | None:
        """Return the stored state of a Graph or Swarm, or None if there is none."""
        check_id("multi_agent_id", multi_agent_id)
        return self._values.whole(lambda: self._read(session_id, multi_agent_id))

    def _read(self, session_id: str, multi_agent_id: str) -> StoredState | None:
        pipeline = multi_agent_pipeline(session_id, multi_agent_id)
        with operation("read_multi_agent", session_id, multi_agent_id):
            stored = next(self._operations.sessions.aggregate(pipeline), {})
            self._operations.lives.check(session_id, stored)
        if "state" not in stored:
            return None
        label = multi_agent_label(session_id, multi_agent_id)
        with Restoring(label, "state"):
            wanted = file_digests([stored])
            if not wanted:
                return decode_multi_agent(stored)
            files = self._values.read(session_id, multi_agent_id, wanted)
            if not files.keys() >= wanted:
                raise MissingValueError(label, _REMEDY)
            return decode_multi_agent(put_back_state(cast(MultiAgentDoc, stored), files))
