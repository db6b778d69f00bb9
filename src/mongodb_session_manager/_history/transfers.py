"""The steps around a write that brings large values or takes some out: announce, keep, remove, take back."""

import threading
from collections.abc import Iterable
from contextlib import suppress

from pymongo.errors import PyMongoError

from .._schema.histories import AgentWrite
from .._stores.histories import HistoryStore
from .changes import Change
from .uploads import Uploads

__all__ = ["Transfers"]


class Transfers:
    """Uploads and removals of one agent's values, in the order that loses none.

    Args:
        store: Where they are stored.
        session_id: The session.
        agent_id: The agent.

    Attributes:
        uploads: The values in flight.
        lock: Is held while they change.
    """

    def __init__(self, store: HistoryStore, session_id: str, agent_id: str) -> None:
        self._store = store
        self._session_id, self._agent_id = session_id, agent_id
        self.uploads = Uploads()
        self.lock = threading.RLock()

    def announce(self, write: AgentWrite) -> None:
        """Note what is about to be uploaded, and announce the removal of the values that an edit takes out."""
        with self.lock:
            removal = self.uploads.begin(write)
        if removal is not None:
            self._store.mark_files(self._session_id, self._agent_id, removal.edit, removal.unused, removal.id)

    def complete(self, changes: Iterable[Change]) -> None:
        """Keep the values that stored changes refer to, and remove those that they took out."""
        files = {digest: value for change in changes for digest, value in change.values.files.items()}
        self._store.keep_files(self._session_id, files)
        with self.lock:
            removal = self.uploads.due()
        if removal is not None:
            self._store.remove_files(self._session_id, removal.unused, removal.id)
        with self.lock:
            self.uploads.finish(files, removal)

    def take_back(self) -> None:
        """Remove the values that were uploaded for changes that will never be stored.

        A removal that was announced for such a change ends too: values that are still used lose its mark.
        """
        with self.lock:
            removal = self.uploads.take_back()
        if removal is not None:
            with suppress(PyMongoError):
                self._store.remove_files(self._session_id, removal.unused, removal.id)
