"""Load the library under faults, and check that nothing is lost: ``python benchmarks/soak.py --help``."""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack

from report import new_table
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from soaking.load import Load, Settings, quiet

from mongodb_session_manager.testing import Mongod


def parse(arguments: Sequence[str]) -> Settings:
    parser = argparse.ArgumentParser(
        description=(
            "Load the library with mixed operations, while the server fails and writers are killed, and compare "
            "what is stored with a plain model. Ends with 1 when anything was lost, doubled or wrong. Faults and "
            "restarts of the server need the private mongod, which runs unless MONGODB_URI names another."
        )
    )
    add, default = parser.add_argument, Settings()
    add("--minutes", type=float, default=default.seconds / 60, help="how long at least (%(default)g)")
    add("--operations", type=int, default=default.operations, help="MongoDB commands at least (%(default)d)")
    add("--sessions", type=int, default=default.sessions, help="sessions (%(default)d)")
    add("--threads", type=int, default=default.threads, help="threads that visit sessions (%(default)d)")
    add("--tasks", type=int, default=default.tasks, help="requests at once in the event loop (%(default)d)")
    add("--faults", type=float, default=default.faults, help="faults a second; 0 for none (%(default)g)")
    add("--kills", type=int, default=default.kills, help="writers to kill (%(default)d)")
    add("--history", type=int, default=default.history, help="messages of the history to measure (%(default)d)")
    add("--seed", type=int, default=default.seed, help="decides what is done (%(default)d)")
    options = vars(parser.parse_args(arguments))
    return Settings(seconds=60 * options.pop("minutes"), **options)


def show(load: Load, console: Console) -> None:
    figures = load.figures
    kinds = Counter(finding.kind for finding in figures.findings)
    memory = load.memory.quarters()
    table = new_table("Load under faults", ["", "figure"])
    rows = {
        "seconds": f"{load.seconds:,.0f}",
        "sessions": f"{len(load.sessions):,}",
        "MongoDB commands": f"{figures.commands.sent:,}",
        "operations of the library": f"{sum(figures.operations.values()):,}",
        **{f"  {name}": f"{number:,}" for name, number in figures.operations.most_common()},
        "faults": f"{sum(figures.faults.values()):,}",
        **{f"  {name}": f"{number:,}" for name, number in sorted(figures.faults.items())},
        "errors that callers saw": f"{sum(figures.errors.values()):,}",
        "writers killed": f"{load.kills:,}",
        "messages checked": f"{load.messages:,}",
        "messages in segments": f"{load.moved:,}",
        "segments left by moves that were cut off": f"{load.unreferenced:,}",
        "lost": f"{kinds['lost']:,}",
        "duplicated": f"{kinds['duplicated']:,}",
        "otherwise wrong": f"{kinds['invalid']:,}",
        "memory by quarter of the time": f"{', '.join(f'{each:,.0f}' for each in memory)} MB",
        "memory, last quarter against first": f"{memory[-1] / (memory[0] or 1):.2f}",
    }
    if load.growth is not None:
        growth = load.growth
        rows["added time of a turn, 100 messages so far"] = f"{growth.short:.2f} ms"
        rows[f"added time of a turn, {growth.messages:,} messages so far"] = (
            f"{growth.long:.2f} ms ({growth.long / growth.short:.2f})"
        )
    for row in rows.items():
        table.add_row(*row)
    console.print(table)
    for finding in figures.findings[:50]:
        console.print(f"{finding.kind}: {finding.where}: {finding.what}", markup=False)


def main(arguments: Sequence[str]) -> int:
    settings = parse(arguments)
    quiet()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with ExitStack() as stack:
        uri, mongod = os.environ.get("MONGODB_URI", "").strip(), None
        if not uri:
            mongod = stack.enter_context(Mongod(parameters={"enableTestCommands": "1"}))
            uri = mongod.uri
        load = Load(uri, settings, mongod)
        with Progress(*columns, console=Console(stderr=True)) as progress:
            try:
                load.run(progress)
            finally:
                load.drop()
    console = Console()
    show(load, console if console.is_terminal else Console(width=160))
    return 1 if load.figures.findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
