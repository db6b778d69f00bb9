"""How long a turn, a stateless request and a restore take, contender after contender in every round."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from statistics import median
from time import perf_counter

from contender import Contender, Conversation
from workload import new_session

Tick = Callable[[], None]
Samples = dict[str, list[float]]
WARM_UP = 3


class Sessions:
    """One filled session for each contender, a new one when the history has grown by a tenth."""

    def __init__(self, contenders: Sequence[Contender], history: int) -> None:
        self._contenders, self._history = contenders, history
        self._rounds_each = max(1, history // 20)

    async def for_round(self, number: int) -> bool:
        """Return whether the sessions are new in this round."""
        if number % self._rounds_each:
            return False
        self.ids = {contender.name: new_session(self._history) for contender in self._contenders}
        for contender in self._contenders:
            await contender.fill(self.ids[contender.name], self._history)
        return True


def rounds(contenders: Sequence[Contender], count: int) -> Iterator[tuple[int, list[Contender]]]:
    """Yield the number and the order of every round; each contender comes first as often as the others."""
    for number in range(count + WARM_UP):
        first = number % len(contenders)
        yield number, [*contenders[first:], *contenders[:first]]


async def time_turns(contenders: Sequence[Contender], history: int, count: int, tick: Tick) -> Samples:
    """Seconds of one turn in a conversation that goes on."""
    samples: Samples = {contender.name: [] for contender in contenders}
    sessions = Sessions(contenders, history)
    conversations: dict[str, Conversation] = {}
    for number, order in rounds(contenders, count):
        if await sessions.for_round(number):
            await _close(conversations)
            conversations = {each.name: await each.open(sessions.ids[each.name]) for each in contenders}
        for contender in order:
            conversation = conversations[contender.name]
            samples[contender.name].append(await _timed(conversation.turn))
            await conversation.settle()
        tick()
    await _close(conversations)
    return _warm(samples)


async def time_requests(
    contenders: Sequence[Contender], history: int, count: int, tick: Tick, turns: int = 1
) -> Samples:
    """Seconds of a stateless request: restore, new agent, one turn. Without turns: of restoring alone."""
    samples: Samples = {contender.name: [] for contender in contenders}
    sessions = Sessions(contenders, history)
    for number, order in rounds(contenders, count):
        await sessions.for_round(number)
        for contender in order:
            session_id = sessions.ids[contender.name]
            started = perf_counter()
            conversation = await contender.open(session_id)
            for _ in range(turns):
                await conversation.turn()
            await conversation.leave()
            samples[contender.name].append(perf_counter() - started)
            await conversation.settle()
            await conversation.close()
        tick()
    return _warm(samples)


async def time_restores(contenders: Sequence[Contender], history: int, count: int, tick: Tick) -> Samples:
    """Seconds until an agent stands there with its history, and nothing was said yet."""
    return await time_requests(contenders, history, count, tick, turns=0)


async def _timed(call: Callable[[], Awaitable[None]]) -> float:
    started = perf_counter()
    await call()
    return perf_counter() - started


async def _close(conversations: dict[str, Conversation]) -> None:
    for conversation in conversations.values():
        await conversation.close()


def _warm(samples: Samples) -> Samples:
    return {name: times[WARM_UP:] for name, times in samples.items()}


def added_milliseconds(contenders: Sequence[Contender], samples: Samples, alone: str) -> dict[str, float]:
    """Medians, without what the agent alone takes; the floor without an agent stands as it is."""
    medians = {name: median(times) * 1000 for name, times in samples.items()}
    return {
        contender.name: medians[contender.name] - (medians[alone] if contender.has_agent else 0)
        for contender in contenders
        if contender.name != alone
    }
