"""What is to be reached: ratios within one run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

OURS, FLOOR, ASYNC_FLOOR = "ours sync", "floor", "floor async in agent"
SERVICE, GUARDED = "ours in service", "guarded floor off loop"
Results = Mapping[str, Any]


@dataclass(frozen=True)
class Goal:
    """One row of the list.

    Attributes:
        measure: What is compared.
        at_most: The ratio to reach.
        of: Finds the two numbers.
    """

    measure: str
    at_most: float
    of: Callable[[Results], tuple[float, float]]

    def judge(self, results: Results) -> dict[str, Any] | None:
        """Return the verdict; None where the run did not measure it."""
        try:
            value, reference = self.of(results)
        except KeyError:
            return None
        ratio = value / reference
        return {
            "measure": self.measure,
            "value": value,
            "reference": reference,
            "ratio": ratio,
            "at_most": self.at_most,
            "met": ratio <= self.at_most,
        }


def _added(measure: str, history: str) -> Callable[[Results], tuple[float, float]]:
    return lambda results: (results[measure][OURS][history], results[measure][FLOOR][history])


def _request(history: str) -> Callable[[Results], tuple[float, float]]:
    return lambda results: (results["request"][SERVICE][history], results["request"][GUARDED][history])


def _traffic(situation: str, *fields: str) -> Callable[[Results], tuple[float, float]]:
    def find(results: Results) -> tuple[float, float]:
        ours, floor = (results["traffic"][name][situation] for name in (OURS, FLOOR))
        return sum(ours[field] for field in fields), sum(floor[field] for field in fields)

    return find


def _fleet(where: str, figure: str) -> Callable[[Results], tuple[float, float]]:
    def find(results: Results) -> tuple[float, float]:
        ours, floor = (results["fleet"][where][name][figure] for name in (OURS, ASYNC_FLOOR))
        return ours, floor

    return find


GOALS = (
    Goal("operations, steady turn", 1.0, _traffic("steady", "writes", "reads")),
    Goal("operations, turn with a tool call", 1.0, _traffic("tool call", "writes", "reads")),
    Goal("operations, turn with a full window (one more is allowed)", 1.5, _traffic("full window", "writes", "reads")),
    Goal("added time per turn, history 100", 1.25, _added("turn", "100")),
    Goal(
        "added time per turn, history 10,000 against 100",
        1.3,
        lambda results: (results["turn"][OURS]["10000"], results["turn"][OURS]["100"]),
    ),
    Goal("added time per request, history 1,000", 1.5, _added("request", "1000")),
    *(
        Goal(f"added time per request in a service, history {int(history):,}, against the guarded floor", 1.25, of)
        for history, of in ((history, _request(history)) for history in ("0", "100", "1000"))
    ),
    Goal(
        "fifty sessions opened, 5 ms each way",
        1.1,
        lambda results: (results["opening"][SERVICE], results["opening"]["floor async"]),
    ),
    Goal("fifty agents, 5 ms each way, total", 1.3, _fleet("delayed", "total")),
    Goal("fifty agents, 5 ms each way, lag p99", 1.5, _fleet("delayed", "lag_p99")),
    Goal("bytes sent per turn", 1.35, _traffic("steady", "bytes_sent")),
)


def judge(results: Results) -> list[dict[str, Any]]:
    return [verdict for goal in GOALS if (verdict := goal.judge(results)) is not None]
