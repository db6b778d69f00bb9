"""What a turn takes with a very long history behind it, against a short one."""

import asyncio
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from time import perf_counter

from rich.progress import Progress
from strands import Agent
from workload import PROMPT, WINDOW, history, new_agent

from mongodb_session_manager import MongoDBSessionManager, MongoDBSessionManagerFactory

SHORT = 100
# About as many messages move at a time when a conversation grows turn by turn.
MOVED = 130
ROUNDS = 60
WARM_UP = 5


@dataclass(frozen=True)
class Growth:
    """Milliseconds that storing adds to a turn."""

    messages: int
    short: float
    long: float


def measure_growth(factory: MongoDBSessionManagerFactory, messages: int, progress: Progress) -> Growth:
    """Time turns of the agent alone, with a short and with a long history in turn; return what the histories add."""
    with ExitStack() as stack:
        managers = []
        for count in (SHORT, messages):
            _fill(factory, count, progress)
            managers.append(stack.enter_context(factory.create_session_manager(_name(count))))
        agents = [new_agent(history(WINDOW)), *(new_agent(session_manager=manager) for manager in managers)]
        alone, short, long = asyncio.run(_time(agents, managers))
    return Growth(messages, (short - alone) * 1000, (long - alone) * 1000)


def _name(count: int) -> str:
    return f"grown to {count}"


def _fill(factory: MongoDBSessionManagerFactory, count: int, progress: Progress) -> None:
    messages = history(count)
    parts = range(0, count, MOVED)
    with factory.create_session_manager(_name(count), durability="exit") as manager:
        agent = new_agent(session_manager=manager)
        for first in progress.track(parts, description=f"history of {count:,}"):
            agent(messages[first : first + MOVED])


async def _time(agents: list[Agent], managers: list[MongoDBSessionManager]) -> list[float]:
    samples: list[list[float]] = [[] for _ in agents]
    for number in range(ROUNDS + WARM_UP):
        for place in range(len(agents)):
            which = (place + number) % len(agents)
            started = perf_counter()
            await agents[which].invoke_async(PROMPT)
            samples[which].append(perf_counter() - started)
        for manager in managers:
            await manager.aflush()
    return [median(times[WARM_UP:]) for times in samples]
