"""Which messages of a history a caller asks for, as a page of it; pure, no I/O."""

from dataclasses import dataclass

from .ids import check_message_id


@dataclass(frozen=True)
class Position:
    """Where a message stands in a history, or would.

    Attributes:
        before: How many messages are older.
        upto: The same, and the message itself where it is there.
    """

    before: int
    upto: int


@dataclass(frozen=True)
class Listing:
    """A page as callers name it.

    Attributes:
        limit: How many messages at most; None for all.
        offset: How many to leave out, from where the listing begins.
        newest_first: Whether it begins at the newest.
        after: The message behind which it begins, in its order.

    Raises:
        TypeError: A field has the wrong type.
        ValueError: ``limit`` or ``offset`` is negative, or ``after`` has no place in 8 bytes.
    """

    limit: int | None = None
    offset: int = 0
    newest_first: bool = False
    after: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.newest_first, bool):
            raise TypeError(f"newest_first must be True or False, got {self.newest_first!r}")
        if self.after is not None:
            check_message_id(self.after)
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
        """Whether nothing must be known of the history to find the page."""
        return self.after is None and not self.newest_first

    def page(self, position: Position) -> tuple[int, int | None]:
        """Return offset and limit in the history, oldest first.

        Args:
            position: Of the message that it begins behind; the end where it begins at the newest.
        """
        if not self.newest_first:
            return position.upto + self.offset, self.limit
        end = max(position.before - self.offset, 0)
        start = 0 if self.limit is None else max(end - self.limit, 0)
        return start, end - start
