"""Messages: one by one, as the SDK's verbs name them, and in pages; and their number."""

from strands.types.session import SessionMessage

from .._schema.blobs import leave_unread, offload, offload_edit
from .._schema.files import WITHOUT_FILES_FILTER
from .._schema.given import check_numbers, given_time
from .._schema.histories import AgentWrite
from .._schema.ids import MAX_MESSAGE_ID, agent_label, check_message_id, now
from .._schema.listing import Listing, Position
from .._schema.messages import MessageEdit, message_doc, redaction, replacement, session_message
from .._schema.reads import ReadAgentDoc, count_pipeline, page_pipeline, position_pipeline
from ..errors import AgentNotFoundError, MessageNotFoundError, SessionConflictError
from ..types import MessageDoc
from .agents import AgentPosition, AgentReader
from .histories import HistoryStore
from .large_values import LargeValues
from .operation import Operations, operation
from .restoring import Reading
from .segments import MessageSegments

__all__ = ["MessageStore"]


class MessageStore:
    """The messages of one repository's sessions.

    Args:
        operations: Of the repository.
        segments: The messages in segments.
        values: Large values.
        reader: Reads one agent.
        histories: Writes agents.
    """

    def __init__(
        self,
        operations: Operations,
        segments: MessageSegments,
        values: LargeValues,
        reader: AgentReader,
        histories: HistoryStore,
    ) -> None:
        self._operations, self._segments, self._values = operations, segments, values
        self._reader, self._histories = reader, histories

    # Writing

    def create_message(self, session_id: str, agent_id: str, given: SessionMessage) -> None:
        """Append a message under an id that is higher than all stored ones. A repeated call has no effect."""
        message_id, message = check_message_id(given.message_id), given.to_message()
        label = agent_label(session_id, agent_id, message_id)
        created_at = given_time(label, "created_at", given.created_at)
        stored = message_doc(message, message_id, created_at, label)
        size, files = offload(stored, session_id, agent_id, message_id, self._values.limits)
        write, tracking_id = AgentWrite(agent_id, [stored], size=size, files=files), message.get("tracking_id")
        self._values.around(session_id, files, lambda: self._append(session_id, write, message_id, tracking_id))

    def _append(self, session_id: str, write: AgentWrite, message_id: int, tracking_id: str | None) -> bool:
        """Append a message; False if it is stored already, perhaps redacted since."""

        def append(seen: AgentPosition | None) -> bool:
            is_taken = seen is not None and bool(seen.tracking_ids)
            if not is_taken and self._histories.write_unguarded("create_message", session_id, write, seen):
                return True
            if seen is None:
                return False
            reason = f"already holds a message {message_id} or later; read it again before writing."
            raise SessionConflictError(session_id, write.agent_id, reason)

        def look() -> AgentPosition | bool:
            position = self._reader.locate(session_id, write.agent_id, message_id)
            is_stored = tracking_id is not None and position.tracking_ids.get(message_id) == tracking_id
            return False if is_stored else position

        return self._operations.write_again(session_id, append, look)

    def update_message(self, session_id: str, agent_id: str, given: SessionMessage) -> None:
        """Replace a message, or redact it: of a message with ``redact_message``, only this one is stored."""
        message_id = check_message_id(given.message_id)
        edit = replacement if given.redact_message is None else redaction
        edited = edit(given.to_message(), message_id, now(), agent_label(session_id, agent_id, message_id))
        edited, files = offload_edit(edited, session_id, agent_id, self._values.limits)
        write = AgentWrite(agent_id, edited=edited, files=files)
        if not files and self._edit_fileless(session_id, write):
            if edited.redacts:
                self._histories.edit_in_segments(session_id, agent_id, edited)
            return
        if not self._values.around(session_id, files, lambda: self._edit(session_id, write, edited), replaces=True):
            raise MessageNotFoundError(session_id, agent_id, message_id)

    def _edit_fileless(self, session_id: str, write: AgentWrite) -> bool:
        """Change an embedded message of a session that never had offloaded values."""
        return self._histories.write_unguarded("update_message", session_id, write, condition=WITHOUT_FILES_FILTER)

    def _edit(self, session_id: str, write: AgentWrite, edit: MessageEdit) -> bool:
        """Change a message, embedded or in a segment; False if it is not stored."""
        written = self._edit_embedded(session_id, write, edit.message_id)
        if written and not edit.redacts:
            return True
        # A redaction also reaches copies that segments hold.
        return self._histories.edit_in_segments(session_id, write.agent_id, edit, write.files) or written

    def _edit_embedded(self, session_id: str, write: AgentWrite, message_id: int) -> bool:
        """Change an embedded message; False if it is not in the document."""

        def edit(seen: AgentPosition | None) -> bool:
            is_embedded = seen is None or message_id in seen.tracking_ids
            return is_embedded and self._histories.write_unguarded("update_message", session_id, write, seen)

        return self._operations.write_again(
            session_id, edit, lambda: self._reader.locate(session_id, write.agent_id, message_id)
        )

    # Reading

    def read_message(self, session_id: str, agent_id: str, message_id: int) -> SessionMessage | None:
        """Return one message, or None if there is no such message, agent or session."""

        def read() -> list[MessageDoc]:
            found = self._reader.find_message(session_id, agent_id, message_id)
            self._values.put_back_messages(session_id, agent_id, found)
            return found

        found = self._values.whole(read)
        with Reading(agent_label(session_id, agent_id), f"message {message_id}"):
            return session_message(found[0]) if found else None

    def list_messages(
        self, session_id: str, agent_id: str, limit: int | None = None, offset: int = 0
    ) -> list[SessionMessage]:
        """Return an agent's messages, oldest first."""
        page = self.read_page(session_id, agent_id, limit, offset)
        with Reading(agent_label(session_id, agent_id), "a message"):
            return [session_message(stored) for stored in page]

    def read_page(
        self, session_id: str, agent_id: str, limit: int | None = None, offset: int = 0, *, sizes_only: bool = False
    ) -> list[MessageDoc]:
        """Return an agent's messages as the codec stores them, oldest first.

        With ``sizes_only``, large bytes have only their length, and are not read if the mark holds it.
        """

        def read() -> list[MessageDoc]:
            messages = self._read_page(session_id, agent_id, limit, offset)
            with Reading(agent_label(session_id, agent_id), "a message"):
                for message in messages if sizes_only else ():
                    leave_unread(message)
                self._values.put_back_messages(session_id, agent_id, messages)
            return messages

        return self._values.whole(read)

    def read_listing(
        self, session_id: str, agent_id: str, listing: Listing, *, sizes_only: bool = False
    ) -> list[MessageDoc]:
        """Return the messages of a page, in its order, as the codec stores them; bytes as in ``read_page``."""
        if listing.begins_at_start:
            return self.read_page(session_id, agent_id, listing.limit, listing.offset, sizes_only=sizes_only)
        offset, limit = listing.page(self._position(session_id, agent_id, listing.after))
        messages = self.read_page(session_id, agent_id, limit, offset, sizes_only=sizes_only)
        return messages[::-1] if listing.newest_first else messages

    def count_messages(self, session_id: str, agent_id: str) -> int:
        """Return the number of an agent's messages; 0 if there is no such agent."""
        stored = self._operations.read_agent("count_messages", session_id, agent_id, count_pipeline)
        return int(self._operations.found(session_id, stored)["count"])

    def _position(self, session_id: str, agent_id: str, message_id: int | None) -> Position:
        """Return the position of a message in its agent's history; the end if no id is given."""
        stored = self._read_agent(session_id, agent_id, position_pipeline, message_id)
        moved = stored.get("moved_count") or 0
        if message_id is not None and stored["upto"] == 0 and moved:
            label = agent_label(session_id, agent_id)
            with operation("list_messages", session_id, agent_id), Reading(label, "a segment"):
                found = self._segments.position(session_id, stored["segments"], message_id)
            if found is not None:
                return found
        return Position(moved + stored["before"], moved + stored["upto"])

    def _read_page(self, session_id: str, agent_id: str, limit: int | None, offset: int) -> list[MessageDoc]:
        check_numbers(limit=limit, offset=offset)
        if offset < 0 or (limit is not None and limit < 0):
            raise ValueError(f"limit and offset must not be negative, got limit={limit!r}, offset={offset!r}")
        start = min(offset, MAX_MESSAGE_ID)
        end = None if limit is None else min(offset + limit, MAX_MESSAGE_ID)
        agent = self._read_agent(session_id, agent_id, page_pipeline, start, end)
        with Reading(agent_label(session_id, agent_id), "a segment"):
            return self._segments.page(session_id, agent, start, end)

    def _read_agent(self, session_id: str, agent_id: str, *read: object) -> ReadAgentDoc:
        stored = self._operations.read_agent("list_messages", session_id, agent_id, *read)
        found = self._operations.found(session_id, stored)
        if not found.get("agent_data"):
            raise AgentNotFoundError(session_id, agent_id)
        return found
