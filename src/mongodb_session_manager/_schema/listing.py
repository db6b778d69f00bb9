"""A page of a history, as a caller names it; pure, no I/O."""

from dataclasses import dataclass

from .given import check_flag
from .ids import check_message_id


@dataclass(frozen=True)
class Position:
    """The position of a message in a history, also of one that is not stored.

    Attributes:
        before: How many messages are older.
        upto: The same, plus the message itself if it is stored.
    """

    before: int
    upto: int


@dataclass(frozen=True)
class Listing:
    """A page as a caller names it.

    Attributes:
        limit: Messages at most; None for all.
        offset: Messages to skip at the beginning of the listing.
        newest_first: Whether it begins at the newest.
        after: The message after which it begins, in its order.

    Raises:
        TypeError: A field has the wrong type.
        ValueError: ``limit`` or ``offset`` is negative, or ``after`` does not fit in 8 bytes.
    """

    limit: int | None = None
    offset: int = 0
    newest_first: bool = False
    after: int | None = None

    def __post_init__(self) -> None:
        check_flag("newest_first", self.newest_first)
        if self.after is not None:
            check_message_id(self.after, "after: message_id")
        for name, number in (("limit", self.limit), ("offset", self.offset)):
            if number is None and name == "limit":
                continue
            if not isinstance(number, int) or isinstance(number, bool):
                raise TypeError(f"{name} must be a number, got {type(number).__name__}")
            if number < 0:
                raise ValueError(
                    f"limit and offset must not be negative, got limit={self.limit!r}, offset={self.offset!r}"
                )

    @property
    def begins_at_start(self) -> bool:
        """Whether the page can be found without knowing the history."""
        return self.after is None and not self.newest_first

    def page(self, position: Position) -> tuple[int, int | None]:
        """Return offset and limit in the history, oldest first.

        Args:
            position: The position of ``after``; the end of the history if the page begins at the newest.
        """
        if not self.newest_first:
            return position.upto + self.offset, self.limit
        end = max(position.before - self.offset, 0)
        start = 0 if self.limit is None else max(end - self.limit, 0)
        return start, end - start
