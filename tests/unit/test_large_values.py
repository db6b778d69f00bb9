"""What a repository notes of fields in files."""

from typing import Any

from mongodb_session_manager._schema.histories import AgentWrite
from mongodb_session_manager._stores.large_values import MOST_NOTED, LargeValues


def test_of_many_sessions_only_some_are_noted() -> None:
    files: Any = None
    values = LargeValues(files)

    for number in range(MOST_NOTED + 10):
        values.note_in_files(f"s-{number}", "a", ["state"])

    assert len(values._in_files) <= MOST_NOTED
    assert values.replaces_files(f"s-{MOST_NOTED + 9}", AgentWrite("a", data={"state": {}}))
