"""How much one place holds, what goes out together, and how long things take: one set of numbers for a manager."""

from dataclasses import dataclass
from typing import Final

__all__ = ["LIMITS", "Limits"]


@dataclass(frozen=True)
class Limits:
    """The limits of one manager and its stores; what belongs to a client has those of its first user.

    Attributes:
        value_bytes: A value of a message above this is offloaded. Each restore reads the whole document, and an append
            costs about 2 ms for each MB in it.
        small_value_bytes: The same in a message that is too large without its values above ``value_bytes``.
        least_field_bytes: A field of an agent above this is offloaded where the session document has no room.
        message_bytes: The size of a message from which its small values are offloaded too.
        kept_messages: So many messages of an agent stay embedded, if they are together not larger than ``kept_bytes``.
            The SDK's default window is 40.
        kept_bytes: Bytes of these.
        embedded_bytes: A part of a longer history moves from this size on. An append costs about 2 ms for each MB of
            the document, a move about 2 ms.
        pending: Changes of one history that wait at most.
        joined_bytes: Changes are joined into one update up to this size, so that what is joined fits where its parts
            fit.
        shared_bytes: Messages and state up to this size share a command with those of other histories, which wait for
            it.
        behind_timeout: Seconds for a write that no caller waits for.
        most_shared: Histories, or openings, in one command at most. A part takes the server about 0.1 ms, or 0.5 ms,
            and each waits for all of them.
        attempt_timeout: Seconds for a shared command. A session that is held up holds up no others longer than this.
        fresh_seconds: So long a session that was read together with others is good to be opened. Where threads are
            scarce, others may have written by the time that one comes to it.
        read_pauses: Seconds between attempts to read a value that a writer may be about to upload again.
        outage_pause: Seconds between looks for a server that is away.
        probe_timeout: Seconds for a look.
        close_timeout: Seconds that closing takes at most.
        first_sweep: Seconds until a process sweeps for the first time, at random: a process that begins has other
            things to do.
        sweep_interval: Seconds until the next time; other processes may do it meanwhile.
    """

    value_bytes: int = 256 * 1024
    small_value_bytes: int = 16 * 1024
    least_field_bytes: int = 4 * 1024
    message_bytes: int = 4 * 1024 * 1024
    kept_messages: int = 48
    kept_bytes: int = 256 * 1024
    embedded_bytes: int = 128 * 1024
    pending: int = 1000
    joined_bytes: int = 4 * 1024 * 1024
    shared_bytes: int = 64 * 1024
    behind_timeout: float = 4.0
    most_shared: int = 16
    attempt_timeout: float = 0.5
    fresh_seconds: float = 0.5
    read_pauses: tuple[float, ...] = (0.05, 0.2, 1.0)
    outage_pause: float = 2.0
    probe_timeout: float = 4.0
    close_timeout: float = 10.0
    first_sweep: tuple[float, float] = (30.0, 90.0)
    sweep_interval: float = 900.0


LIMITS: Final = Limits()
