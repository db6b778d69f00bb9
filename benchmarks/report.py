"""The results as tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from goals import ASYNC_FLOOR
from rich import box
from rich.console import Console
from rich.table import Table

Results = Mapping[str, Any]
FLOOR = "floor"
TIMES = {
    "turn": "Added milliseconds per turn, by messages so far (ratio to the floor)",
    "request": "Added milliseconds per stateless request: restore, new agent, one turn (ratio to the floor)",
    "restore": "Added milliseconds to restore, by messages so far (ratio to the floor)",
}


def show(results: Results, console: Console) -> None:
    for measure, title in TIMES.items():
        console.print(_times(title, results[measure]))
    console.print(_traffic(results["traffic"]))
    for where, found in results["fleet"].items():
        console.print(_fleet(where, found))
    console.print(_openings(results["opening"]))
    console.print(_resources(results["resources"]))
    console.print(_goals(results["goals"]))


def new_table(title: str, columns: Sequence[str]) -> Table:
    table = Table(*columns, title=title, title_justify="left", box=box.MARKDOWN)
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _times(title: str, found: Mapping[str, Mapping[str, float]]) -> Table:
    floor = found[FLOOR]
    table = new_table(title, ["", *(f"{int(history):,}" for history in floor)])
    for name, times in found.items():
        table.add_row(name, *(_against(times[history], floor[history]) for history in floor))
    return table


def _against(value: float, reference: float, digits: int = 2) -> str:
    return f"{value:,.{digits}f} ({value / reference:.2f})"


def _traffic(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    situations = list(found[FLOOR])
    columns = ["", *(f"ops, {name}" for name in situations), "bytes sent, steady", "received", "bytes, request"]
    table = new_table("Operations and bytes per turn (ratio to the floor)", columns)
    floor = found[FLOOR]
    for name, traffic in found.items():
        operations = [f"{each['writes'] + each['reads']:.1f}" for each in traffic.values()]
        bytes_moved = [
            _against(traffic[situation][way], floor[situation][way], 0)
            for situation, way in (
                ("steady", "bytes_sent"),
                ("steady", "bytes_received"),
                ("request", "bytes_received"),
            )
        ]
        table.add_row(name, *operations, *bytes_moved)
    return table


def _fleet(where: str, found: Mapping[str, Mapping[str, float]]) -> Table:
    title = f"Agents in one event loop, {where}: milliseconds (ratio to the asynchronous floor in agents)"
    table = new_table(title, ["", "total", "lag p50", "lag p99"])
    reference = found.get(ASYNC_FLOOR)
    for name, figures in found.items():
        compared = reference or figures
        table.add_row(name, *(_against(figures[each], compared[each], 1) for each in figures))
    return table


def _openings(found: Mapping[str, float]) -> Table:
    table = new_table("Sessions opened at once, delayed: milliseconds (ratio to the asynchronous floor)", ["", "total"])
    for name, total in found.items():
        table.add_row(name, _against(total, found["floor async"], 1))
    return table


def _resources(found: Mapping[str, Mapping[str, float]]) -> Table:
    columns = ["", "CPU ms per turn", "peak RSS, MB", "peak Python memory of a request, kB"]
    table = new_table("CPU time and memory of the whole process, history 1,000", columns)
    for name, figures in found.items():
        table.add_row(name, *(f"{figure:,.2f}" for figure in figures.values()))
    return table


def _goals(verdicts: Sequence[Mapping[str, Any]]) -> Table:
    table = new_table("Goals", ["", "measured", "at most", ""])
    for verdict in verdicts:
        met = "met" if verdict["met"] else "missed"
        table.add_row(verdict["measure"], f"{verdict['ratio']:.2f}", f"{verdict['at_most']:.2f}", met)
    return table
