"""What a turn sends: operations and bytes, counted and not timed."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from contender import Contender
from measures import Tick
from proxy import Proxy
from workload import new_session

from mongodb_session_manager.testing import CommandCounter

# Name, history, with a tool call: 10 messages leave room in the window for the turns that follow.
SITUATIONS = (("steady", 10, False), ("full window", 100, False), ("tool call", 10, True))
REQUEST_HISTORY = 1_000
TURNS = 5


@dataclass(frozen=True)
class Traffic:
    """What one turn took, on average."""

    writes: float
    reads: float
    bytes_sent: float
    bytes_received: float


class Meter:
    """Reads the counters of a client and of the proxy that it goes through."""

    def __init__(self, counter: CommandCounter, proxy: Proxy) -> None:
        self._counter, self._proxy = counter, proxy
        self.start()

    def start(self) -> None:
        self._counter.clear()
        self._before = self._proxy.counts()

    def stop(self, turns: int) -> Traffic:
        sent, received = (now - before for now, before in zip(self._proxy.counts(), self._before, strict=True))
        return Traffic(self._counter.writes / turns, self._counter.reads / turns, sent / turns, received / turns)


async def count_traffic(
    contenders: Sequence[Contender], meter: Meter, tick: Tick
) -> dict[str, dict[str, dict[str, float]]]:
    """Return what a turn took in each situation, by contender."""
    counted: dict[str, dict[str, dict[str, float]]] = {}
    for contender in (each for each in contenders if each.uses_mongodb):
        found = {name: await _turns(contender, meter, count, tool) for name, count, tool in SITUATIONS}
        found["request"] = await _request(contender, meter)
        counted[contender.name] = {name: asdict(traffic) for name, traffic in found.items()}
        tick()
    return counted


async def _turns(contender: Contender, meter: Meter, history: int, with_tool: bool) -> Traffic:
    session_id = new_session(history)
    await contender.fill(session_id, history)
    conversation = await contender.open(session_id, with_tool)
    # The first turn opens connections, and has more to write in a new process.
    await conversation.turn()
    await conversation.settle()
    meter.start()
    for _ in range(TURNS):
        await conversation.turn()
        await conversation.settle()
    traffic = meter.stop(TURNS)
    await conversation.close()
    return traffic


async def _request(contender: Contender, meter: Meter) -> Traffic:
    session_id = new_session(REQUEST_HISTORY)
    await contender.fill(session_id, REQUEST_HISTORY)
    meter.start()
    for _ in range(TURNS):
        conversation = await contender.open(session_id)
        await conversation.turn()
        await conversation.settle()
        await conversation.close()
    return meter.stop(TURNS)
