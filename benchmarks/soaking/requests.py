"""Requests of a web service in one event loop, some of whose clients go away in the midst of them."""

import asyncio
import random
from collections.abc import Sequence
from typing import get_args

from pymongo.errors import PyMongoError

from mongodb_session_manager import MongoDBSessionManager, MongoDBSessionManagerFactory
from mongodb_session_manager.types import Durability

from .expected import ExpectedSession
from .figures import Clock, Figures
from .talks import PAUSE, Talk, tool_call

AGENT = "support"
# Part of the requests that are cancelled, and when at the latest, in seconds.
CANCELLED = 0.1
CANCELLED_WITHIN = 0.02
LONGEST_TEXT = 8_000


class Service:
    """Serves sessions of its own.

    Args:
        factory: Whose ``session()`` it uses.
        sessions: Its sessions.
        choices: Decides what it does.
        figures: Takes what was done and found.
        tasks: How many requests run at once.
    """

    def __init__(
        self,
        factory: MongoDBSessionManagerFactory,
        sessions: Sequence[ExpectedSession],
        choices: random.Random,
        figures: Figures,
        tasks: int,
    ) -> None:
        self._factory, self._sessions = factory, sessions
        self._choices, self._figures, self._tasks = choices, figures, tasks
        self._number = 0

    def run(self, clock: Clock) -> None:
        asyncio.run(self._serve(clock))

    async def _serve(self, clock: Clock) -> None:
        parts = [self._sessions[number :: self._tasks] for number in range(self._tasks)]
        await asyncio.gather(*(self._requests(clock, part) for part in parts if part))

    async def _requests(self, clock: Clock, sessions: Sequence[ExpectedSession]) -> None:
        while not clock.is_over():
            session = self._choices.choice(sessions)
            durability: Durability = self._choices.choice(get_args(Durability))
            self._number += 1
            try:
                await self._request(session, durability)
            except PyMongoError as error:  # it was not opened; nothing was said
                self._figures.failed(error)
                await asyncio.sleep(PAUSE)

    async def _request(self, session: ExpectedSession, durability: Durability) -> None:
        opening = self._factory.session(session.session_id, agent_ids=[AGENT], durability=durability)
        async with opening as manager:
            talk = Talk(manager, AGENT)
            history = session.history(AGENT)
            self._figures.found(list(history.compare(talk.live())))
            await self._turn(talk)
            await self._flush(manager)
            history.acknowledge(talk.live())
        self._figures.did("request")

    async def _turn(self, talk: Talk) -> None:
        number = self._number
        talk.replies.extend((tool_call(number), f"Counted {number}.") if number % 4 == 0 else (f"Answer {number}.",))
        turn = talk.agent.invoke_async(f"Prompt {number} " + "x" * self._choices.randint(0, LONGEST_TEXT))
        leaves_after = None
        if self._choices.random() < CANCELLED:
            leaves_after = self._choices.uniform(0, CANCELLED_WITHIN)
        try:
            await asyncio.wait_for(turn, leaves_after)
        except asyncio.TimeoutError:
            self._figures.did("request cancelled")
        except PyMongoError as error:
            self._figures.failed(error)

    async def _flush(self, manager: MongoDBSessionManager) -> None:
        while True:
            try:
                return await manager.aflush()
            except PyMongoError as error:
                self._figures.failed(error)
                await asyncio.sleep(PAUSE)
