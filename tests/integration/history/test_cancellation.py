"""Requests that are cancelled, streams that nobody reads on, interpreters that end: nothing torn, nothing lost."""

import asyncio
import gc
import json
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure
from strands import Agent, tool
from strands.agent.conversation_manager import NullConversationManager
from strands.types.content import Message

from mongodb_session_manager import MongoDBSessionManager, MongoDBSessionRepository
from mongodb_session_manager.testing import CommandCounter, Mongod, ScriptedModel
from tests.aliases import Failing, History, NewAgent, NewManager
from tests.talking import LOOK, every_durability, look_up, texts
from tests.watching import until

BLOCKED_MS = 1_000


def is_valid(messages: list[Message]) -> bool:
    """Tell whether every tool call has its result in the next message, and no result stands alone."""
    calls: list[set[str]] = [set()]
    results: list[set[str]] = []
    for message in messages:
        blocks = message["content"]
        calls.append({block["toolUse"]["toolUseId"] for block in blocks if "toolUse" in block})
        results.append({block["toolResult"]["toolUseId"] for block in blocks if "toolResult" in block})
    return calls == [*results, set()]


async def cancelled(task: "asyncio.Task[Any]", times: int = 1) -> None:
    """Cancel, as often as told, and wait for the end."""
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0.02)
    with pytest.raises(asyncio.CancelledError):
        await task


class SlowModel(ScriptedModel):
    """Says its first word, and takes its time for the rest the first time that it is called."""

    def __init__(self, *turns: Any) -> None:
        super().__init__(turns, default="Okay.")
        self.at_work = asyncio.Event()
        self._slow = True

    async def stream(self, *args: Any, **kwargs: Any) -> Any:
        slow, self._slow = self._slow, False
        async for event in super().stream(*args, **kwargs):
            yield event
            if slow and "contentBlockDelta" in event:
                self.at_work.set()
                await asyncio.sleep(60)


async def goes_on(
    agent: Agent,
    manager: MongoDBSessionManager,
    another: Callable[[], Agent],
    history: History,
) -> None:
    """Hold one more turn on the same agent, and one on a new one; everything is stored and valid."""
    await agent.invoke_async("Are you still there?")

    assert history() == agent.messages
    assert is_valid(history())
    assert manager.health == {"ok": True, "pending": 0, "last_error": None}

    restored = another()
    assert restored.messages == agent.messages
    await restored.invoke_async("And you?")
    assert history() == restored.messages
    assert is_valid(history())


async def mended(restored: Agent, history: History) -> None:
    """A tool call may be the last that is stored; the SDK gives it a result with the next prompt."""
    await restored.invoke_async("And now?")

    assert is_valid(history())
    assert history() == restored.messages
    assert texts(history())[-2:] == ["And now?", "Okay."]


# Cancelled tasks


@every_durability
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("restored", [False, True])
async def test_cancelled_while_a_write_is_on_its_way(
    new_manager: NewManager,
    new_agent: NewAgent,
    history: History,
    failing: Failing,
    command_counter: CommandCounter,
    durability: str,
    times: int,
    restored: bool,
) -> None:
    """The first write of an invocation: that of the prompt, or with "exit" the only one."""
    if restored:
        new_agent(new_manager())("Before")
    manager = new_manager(durability=durability)
    agent = new_agent(manager)
    before = len(history())

    with (
        failing("update", mode={"times": 1}, blockConnection=True, blockTimeMS=BLOCKED_MS),
        command_counter.counting() as log,
    ):
        task = asyncio.create_task(agent.invoke_async("One"))
        assert await until(lambda: log.writes == 1)
        await cancelled(task, times)
    await manager.aflush()

    assert history() == agent.messages
    assert "One" in texts(history()[before:])
    await goes_on(agent, manager, lambda: new_agent(new_manager()), history)


@every_durability
@pytest.mark.parametrize("times", [1, 2])
async def test_cancelled_while_the_model_is_at_work(
    new_manager: NewManager, new_agent: NewAgent, history: History, durability: str, times: int
) -> None:
    manager = new_manager(durability=durability)
    model = SlowModel()
    agent = new_agent(manager, model=model)

    task = asyncio.create_task(agent.invoke_async("One"))
    await model.at_work.wait()
    await cancelled(task, times)

    # What was said is stored when the task has ended; cancelled twice it may still be on its way.
    if times == 2:
        await manager.aflush()
    assert texts(history()) == ["One"]
    assert history() == agent.messages
    await goes_on(agent, manager, lambda: new_agent(new_manager()), history)


@every_durability
async def test_cancelled_while_a_tool_is_at_work(
    new_manager: NewManager, new_agent: NewAgent, history: History, durability: str
) -> None:
    at_work = asyncio.Event()

    @tool
    async def wait() -> str:
        """Wait for long."""
        at_work.set()
        await asyncio.sleep(60)
        return "waited"

    manager = new_manager(durability=durability)
    agent = new_agent(manager, {"toolUse": {"toolUseId": "t-1", "name": "wait", "input": {}}}, tools=[wait])
    task = asyncio.create_task(agent.invoke_async("One"))
    await at_work.wait()
    await cancelled(task)
    await manager.aflush()

    assert history() == agent.messages
    await mended(new_agent(new_manager(), tools=[wait]), history)


@pytest.mark.parametrize(
    ("durability", "written_before"), [("sync", 1), ("sync", 2), ("sync", 3), ("async", 1), ("async", 3), ("exit", 0)]
)
@pytest.mark.parametrize("times", [1, 2])
async def test_cancelled_while_a_later_write_is_on_its_way(
    new_manager: NewManager,
    new_agent: NewAgent,
    history: History,
    failing: Failing,
    command_counter: CommandCounter,
    durability: str,
    written_before: int,
    times: int,
) -> None:
    manager = new_manager(durability=durability)
    # With "async" each write is waited for, so that the number tells which one it is.
    model = PatientModel(LOOK, "A bird.", history=history if durability == "async" else None)
    agent = new_agent(manager, model=model, tools=[look_up])

    with (
        failing("update", mode={"skip": written_before}, blockConnection=True, blockTimeMS=BLOCKED_MS),
        command_counter.counting() as log,
    ):
        task = asyncio.create_task(agent.invoke_async("One"))
        assert await until(lambda: log.writes > written_before or task.done())
        if not task.done():  # a busy machine may join two messages, and there are fewer writes then
            await cancelled(task, times)
        await manager.aflush()

    assert history() == agent.messages
    assert len(history()) >= written_before
    await mended(new_agent(new_manager(), tools=[look_up]), history)


class PatientModel(ScriptedModel):
    """Waits with each answer until the messages that it is given are stored."""

    def __init__(self, *turns: Any, history: History | None) -> None:
        super().__init__(turns, default="Okay.")
        self._history = history

    async def stream(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        history, deadline = self._history, time.monotonic() + 10
        while history and len(history()) < len(messages) and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        async for event in super().stream(messages, *args, **kwargs):
            yield event


@every_durability
async def test_cancelled_at_every_moment(
    new_manager: NewManager, new_agent: NewAgent, history: History, durability: str
) -> None:
    """Wherever it falls: what is stored is what the agent has, in order and without a gap."""
    manager = new_manager(durability=durability)
    everything = NullConversationManager()
    agent = new_agent(manager, *[LOOK, "A bird."] * 40, tools=[look_up], conversation_manager=everything)

    for number in range(24):
        task = asyncio.create_task(agent.invoke_async(f"Turn {number}"))
        await asyncio.sleep(number * 0.001)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await manager.aflush()
        assert history() == agent.messages

    ids = [message["message_id"] for message in manager.list_messages("default")]
    assert ids == list(range(len(agent.messages)))
    await mended(new_agent(new_manager(), tools=[look_up], conversation_manager=everything), history)


@every_durability
async def test_cancelled_while_writes_fail(
    new_manager: NewManager, new_agent: NewAgent, history: History, failing: Failing, durability: str
) -> None:
    manager = new_manager(durability=durability)
    model = SlowModel()
    agent = new_agent(manager, model=model if durability != "sync" else ScriptedModel(default="Okay."))
    with failing("update", errorCode=13):
        task = asyncio.create_task(agent.invoke_async("One"))
        if durability != "sync":
            await model.at_work.wait()
            task.cancel()
        with pytest.raises((asyncio.CancelledError, OperationFailure)):
            await task

    await goes_on(agent, manager, lambda: new_agent(new_manager()), history)


@every_durability
async def test_a_timeout_of_a_whole_request(
    new_manager: NewManager, new_agent: NewAgent, history: History, durability: str
) -> None:
    manager = new_manager(durability=durability)
    agent = new_agent(manager, model=SlowModel())

    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(agent.invoke_async("One"), 0.1)

    assert texts(history()) == ["One"]
    await goes_on(agent, manager, lambda: new_agent(new_manager()), history)


@every_durability
async def test_other_agents_do_not_notice(
    new_manager: NewManager, new_agent: NewAgent, history: History, failing: Failing, durability: str
) -> None:
    manager = new_manager(durability=durability)
    agents = [new_agent(manager, agent_id=f"a-{number}") for number in range(6)]

    with failing("update", blockConnection=True, blockTimeMS=50):
        tasks = [asyncio.create_task(agent.invoke_async("Hi")) for agent in agents]
        await asyncio.sleep(0.02)
        for task in tasks[::2]:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
    await manager.aflush()

    assert [isinstance(each, asyncio.CancelledError) for each in done] == [True, False] * 3
    for agent in agents:
        assert history(agent_id=agent.agent_id) == agent.messages


@every_durability
def test_a_loop_that_ends_while_a_write_is_on_its_way(
    new_manager: NewManager,
    new_agent: NewAgent,
    history: History,
    failing: Failing,
    command_counter: CommandCounter,
    caplog: pytest.LogCaptureFixture,
    durability: str,
) -> None:
    manager = new_manager(durability=durability)
    agent = new_agent(manager)

    async def leave() -> None:
        with command_counter.counting() as log:
            task = asyncio.create_task(agent.invoke_async("One"))
            assert await until(lambda: log.writes == 1)
            await cancelled(task, 2)

    with failing("update", mode={"times": 1}, blockConnection=True, blockTimeMS=BLOCKED_MS):
        asyncio.run(leave())
        manager.flush()

    assert history() == agent.messages
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
    agent("Two")
    assert history() == agent.messages


# Streams that nobody reads on


def left_after(number: int) -> Any:
    return pytest.param(number, id=f"event-{number}")


@every_durability
@pytest.mark.parametrize("number", [left_after(number) for number in (1, 4, 12)])
async def test_a_stream_that_is_closed(
    new_manager: NewManager, new_agent: NewAgent, history: History, durability: str, number: int
) -> None:
    manager = new_manager(durability=durability)
    agent = new_agent(manager, LOOK, "A bird.", tools=[look_up])

    stream: Any = agent.stream_async("What is a kiwi?")
    for _ in range(number):
        await anext(stream)
    await stream.aclose()
    await manager.aflush()

    assert history() == agent.messages
    await agent.invoke_async("And an emu?")
    assert history() == agent.messages
    assert is_valid(history())


@every_durability
@pytest.mark.parametrize("number", [left_after(number) for number in (1, 4, 12)])
async def test_a_stream_that_is_dropped(
    new_manager: NewManager, new_agent: NewAgent, history: History, durability: str, number: int
) -> None:
    """Without ``aclose()`` the SDK ends the invocation when the generator is collected."""
    manager = new_manager(durability=durability)
    agent = new_agent(manager, LOOK, "A bird.", tools=[look_up])

    stream: Any = agent.stream_async("What is a kiwi?")
    for _ in range(number):
        await anext(stream)
    del stream
    gc.collect()
    await asyncio.sleep(0.05)
    await manager.aflush()

    assert history() == agent.messages
    await agent.invoke_async("And an emu?")
    assert history() == agent.messages


@every_durability
async def test_a_stream_that_is_held_and_never_read_on(
    new_manager: NewManager, new_agent: NewAgent, history: History, durability: str
) -> None:
    manager = new_manager(durability=durability)
    agent = new_agent(manager, LOOK, "A bird.", tools=[look_up])

    stream: Any = agent.stream_async("What is a kiwi?")
    async for event in stream:
        if "message" in event:
            break
    await manager.aclose()

    assert history() == agent.messages
    assert len(history()) >= 2
    await stream.aclose()  # ends late, and has nothing left to store
    await mended(new_agent(new_manager(), tools=[look_up]), history)


# A fork

FORK = """
import os, sys, threading
from mongodb_session_manager import MongoDBSessionManager
from mongodb_session_manager.testing import ScriptedModel
from pymongo import MongoClient, monitoring
from strands import Agent

class Sent(monitoring.CommandListener):
    def started(self, event):
        if event.command_name == "update":
            os.write(pipe[1], b".")
    def succeeded(self, event): pass
    def failed(self, event): pass

pipe = os.pipe()
uri, database = sys.argv[1:]
manager = MongoDBSessionManager("s-1", client=MongoClient(uri, event_listeners=[Sent()]), database_name=database)
agent = Agent(model=ScriptedModel([], default="Okay."), session_manager=manager, callback_handler=None)
message = {"role": "user", "content": [{"text": "Hi"}]}
writer = threading.Thread(target=manager.append_message, args=(message, agent))
writer.start()
os.read(pipe[0], 1)
if os.fork() == 0:
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 7
writer.join()
"""


def test_a_forked_process_leaves_to_its_parent_what_that_is_writing(
    mongodb_uri: str, database: str, failing: Failing, history: History
) -> None:
    with failing("update", mode={"times": 1}, blockConnection=True, blockTimeMS=BLOCKED_MS):
        subprocess.run([sys.executable, "-c", FORK, mongodb_uri, database], check=True, timeout=60)

    assert texts(history()) == ["Hi"]


# The end of the interpreter

# One process imports everything and forks for each case, since the imports take longer than all the rest.
FORKS = """
import asyncio, json, logging, os, signal, sys, threading, time
from pathlib import Path
from strands import Agent
from mongodb_session_manager import MongoDBSessionManager
from mongodb_session_manager.testing import ScriptedModel

# A shell that starts the tests in the background has them ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
database, folder, cases = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
children = {}
for name, (uri, durability, waits, ending) in cases.items():
    if (pid := os.fork()) == 0:
        break
    children[pid] = name
else:
    ended = {}
    while children:
        pid, status = os.wait()
        ended[children.pop(pid)] = [time.time(), os.waitstatus_to_exitcode(status)]
    print(json.dumps(ended))
    sys.exit()

os.dup2(os.open(folder / f"{name}.log", os.O_CREAT | os.O_WRONLY), 2)
logging.basicConfig(format="%(name)s %(message)s")
at_work = threading.Event()

def answer(messages):
    at_work.set()
    time.sleep(60)

manager = MongoDBSessionManager(name, uri, database, durability=durability)
agent = Agent(model=ScriptedModel([answer]), session_manager=manager, callback_handler=None)
if waits:
    (folder / f"{name}.ready").touch()
    while not (folder / "go").exists():
        time.sleep(0.01)
threading.Thread(target=lambda: asyncio.run(agent.invoke_async("pending")), daemon=True).start()
at_work.wait()
exec(ending)
"""

ENDINGS = {
    "normally": ("", 0),
    "sys-exit": ("sys.exit(3)", 3),
    "unhandled": ("raise RuntimeError('a bug of the user')", 1),
    "sigint": ("os.kill(os.getpid(), signal.SIGINT); time.sleep(5)", -signal.SIGINT),
    "sigterm-handled": (
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(4)); os.kill(os.getpid(), signal.SIGTERM); time.sleep(5)",
        4,
    ),
}
SIGTERM = "os.kill(os.getpid(), signal.SIGTERM); time.sleep(5)"
OVERLAPPING = ("async", "exit")
LONGEST_WAIT = 20  # the ten seconds that are promised, and what a busy machine adds


@dataclass
class Ended:
    """How a process ended."""

    seconds: float
    code: int
    log: str
    stored: list[str]


@pytest.fixture(scope="module")
def ended(
    tmp_path_factory: pytest.TempPathFactory, mongodb_uri: str, observer: MongoClient[dict[str, Any]]
) -> Iterator[dict[str, Ended]]:
    """All the processes at once. The server of some goes before they have anything to store."""
    folder, database = tmp_path_factory.mktemp("ended"), f"test_{uuid.uuid4().hex}"
    cases: dict[str, tuple[str, str, bool, str]] = {"sigterm-exit": (mongodb_uri, "exit", False, SIGTERM)}
    for ending, (code, _) in ENDINGS.items():
        cases |= {f"{ending}-{durability}": (mongodb_uri, durability, False, code) for durability in OVERLAPPING}
    with Mongod() as killed, Mongod() as paused:
        for durability in OVERLAPPING:
            cases[f"killed-{durability}"] = (killed.uri, durability, True, "")
            cases[f"paused-{durability}"] = (paused.uri, durability, True, "")
        command = [sys.executable, "-c", FORKS, database, str(folder), json.dumps(cases)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        while len(list(folder.glob("*.ready"))) < 2 * len(OVERLAPPING):
            assert process.poll() is None
            time.sleep(0.02)
        killed.kill()
        paused.pause()
        started = time.time()
        (folder / "go").touch()
        out, _ = process.communicate(timeout=120)
        paused.resume()
    repository = MongoDBSessionRepository(client=observer, database_name=database)
    result: dict[str, Ended] = {}
    for name, (at, code) in json.loads(out).items():
        gone = name.startswith(("killed", "paused"))
        stored = [] if gone else [record.to_message() for record in repository.list_messages(name, "default")]
        result[name] = Ended(at - started, code, (folder / f"{name}.log").read_text(), texts(stored))
    yield result
    observer.drop_database(database)


@pytest.mark.parametrize("durability", OVERLAPPING)
@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_pending_is_stored_when_the_interpreter_ends(
    ended: dict[str, Ended], durability: str, ending: str
) -> None:
    case = ended[f"{ending}-{durability}"]

    assert case.stored == ["pending"]
    assert case.code == ENDINGS[ending][1]
    assert "not stored" not in case.log
    assert ("Traceback" in case.log) == (ending in {"unhandled", "sigint"})


def test_sigterm_without_a_handler_is_the_loss_window(ended: dict[str, Ended]) -> None:
    """As the user guide says: Python runs nothing then. A server such as uvicorn has a handler."""
    case = ended["sigterm-exit"]

    assert (case.code, case.stored) == (-signal.SIGTERM, [])


@pytest.mark.parametrize("durability", OVERLAPPING)
@pytest.mark.parametrize("how", ["killed", "paused"])
def test_the_end_does_not_wait_long_for_a_server_that_is_gone(
    ended: dict[str, Ended], durability: str, how: str
) -> None:
    case = ended[f"{how}-{durability}"]

    assert case.seconds < LONGEST_WAIT
    assert case.code == 0
    (told,) = [line for line in case.log.splitlines() if "not stored" in line]
    assert f"session_id=<{how}-{durability}>, pending=<1>" in told


CROWD = """
import sys
from pymongo import MongoClient
from strands import Agent
from mongodb_session_manager import MongoDBSessionManager
from mongodb_session_manager._history.group_commit import send_behind
from mongodb_session_manager.testing import ScriptedModel

client = MongoClient(sys.argv[1], tz_aware=True)
managers = [MongoDBSessionManager(f"s-{n}", client=client, durability="async") for n in range(int(sys.argv[2]))]
agents = [Agent(model=ScriptedModel(["Okay."]), session_manager=m, callback_handler=None) for m in managers]
print("ready", flush=True)
sys.stdin.readline()

for manager, agent in zip(managers, agents):
    (binding,) = manager._agents.live()
    binding.capture_message(agent, {"role": "user", "content": [{"text": "pending"}]})
    send_behind(manager._stores.handle, binding.history)
"""


def test_the_end_does_not_wait_for_one_after_another() -> None:
    many = 8
    with Mongod() as mongod:
        words = [sys.executable, "-c", CROWD, mongod.uri, str(many)]
        process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        mongod.pause()
        started = time.monotonic()
        _, log = process.communicate("go\n", timeout=120)
        seconds = time.monotonic() - started
        mongod.resume()

    assert process.returncode == 0
    assert seconds < LONGEST_WAIT
    assert len([line for line in log.splitlines() if "not stored" in line]) == many
