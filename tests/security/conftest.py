"""Who listens to all that is told while secrets go through: logs, errors, warnings, representations."""

import logging
import secrets
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

OURS = "mongodb_session_manager"
# asyncio tells of exceptions that nobody asked for, and the interpreter of those that nobody could raise.
HEARD = (OURS, "asyncio", "root", "py.warnings", "concurrent.futures")


class Witness:
    """Hands out secrets, and notes everything in which they must not be."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.errors: list[BaseException] = []
        self.records: list[logging.LogRecord] = []
        self._secrets: dict[str, str] = {}

    def secret(self, kind: str) -> str:
        """Return the secret of a kind: letters and digits, which no spelling or escaping changes."""
        return self._secrets.setdefault(kind, f"x{secrets.token_hex(12)}")

    def hear(self, *values: object) -> None:
        """Note what was returned, and how it represents itself."""
        self.told += [f"{value!s} {value!r}" for value in values]

    def hear_error(self, error: BaseException) -> None:
        """Note an error as it would be printed, with its notes and causes, and what it holds besides."""
        self.errors.append(error)
        self.told.append("".join(traceback.format_exception(error)))
        for one in chain(error):
            notes = getattr(one, "__notes__", ())
            self.told.append(f"{one!s} {one!r} {one.args!r} {notes!r} {getattr(one, 'details', None)!r}")

    @contextmanager
    def error(self, kind: type[BaseException] | tuple[type[BaseException], ...]) -> Iterator[None]:
        """Expect an error, and note it."""
        with pytest.raises(kind) as caught:
            yield
        self.hear_error(caught.value)

    def hear_record(self, record: logging.LogRecord) -> None:
        """Note a record with its arguments and its traceback."""
        self.records.append(record)
        self.told.append(f"{record.getMessage()} {record.msg!r} {record.args!r} {record.stack_info}")
        if record.exc_info and record.exc_info[1]:
            self.hear_error(record.exc_info[1])

    def leaks(self) -> list[str]:
        """Return the kinds of secrets that were told, with a place each."""
        found = {kind: [text for text in self.told if secret in text] for kind, secret in self._secrets.items()}
        return [f"{kind}: {texts[0][:2000]}" for kind, texts in found.items() if texts]


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error and all behind it, also those that are not printed."""
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop()
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [other for other in (one.__cause__, one.__context__) if other is not None]
            waiting += getattr(one, "exceptions", ())


class _Listening(logging.Handler):
    def __init__(self, hear: Callable[[logging.LogRecord], None]) -> None:
        super().__init__(logging.DEBUG)
        self._hear = hear

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.split(".")[0] in HEARD or record.name in HEARD:
            self._hear(record)


@pytest.fixture
def witness() -> Iterator[Witness]:
    """A witness of the whole test, with the root logger at DEBUG; in the end nothing secret may have been told."""
    witness, root = Witness(), logging.getLogger()
    listening, level = _Listening(witness.hear_record), root.level
    pymongos = logging.getLogger("pymongo")  # at DEBUG it prints commands, which is its user's own choice
    root.addHandler(listening)
    root.setLevel(logging.DEBUG)
    pymongos.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            yield witness
    finally:
        root.removeHandler(listening)
        root.setLevel(level)
        pymongos.setLevel(logging.NOTSET)
    witness.hear(*[warning.message for warning in warned])
    assert witness.leaks() == []


@pytest.fixture
def secret(witness: Witness) -> Callable[[str], str]:
    return witness.secret
