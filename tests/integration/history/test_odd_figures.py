"""Figures come from models, tools and hooks of others: whatever is odd there costs the figure, never the turn."""

import logging
import math
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from decimal import Decimal
from enum import IntEnum
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymongo import MongoClient
from strands import Agent
from strands.hooks import AfterInvocationEvent, MessageAddedEvent
from strands.multiagent import GraphBuilder, Swarm
from strands.multiagent.graph import Graph
from strands.telemetry.metrics import EventLoopMetrics, ToolMetrics

from mongodb_session_manager import MongoDBSessionManager, UnstorableValueError
from mongodb_session_manager.testing import ScriptedModel
from tests.aliases import History, NewAgent, NewManager, Stored
from tests.talking import ASK, LOOK, ask, every_durability, look, look_up, texts

SECRET = "my number is 555-0199"
CACHE_DETAILS = [{"ttl": "5m", "inputTokens": 8}]
TOTALS = ("accumulated_usage", "accumulated_metrics", "tool_metrics")
TOKENS = {"inputTokens": 10, "outputTokens": 5, "totalTokens": 15}


class Raising:
    """Raises whatever is asked of it."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(SECRET)

    def __eq__(self, other: object) -> bool:
        raise RuntimeError(SECRET)

    def __hash__(self) -> int:
        raise RuntimeError(SECRET)

    def __bool__(self) -> bool:
        raise RuntimeError(SECRET)

    def __str__(self) -> str:
        raise RuntimeError(SECRET)

    __repr__ = __str__


class Array:
    """Compares as an array does: with an answer for each element, which is neither true nor false."""

    def __eq__(self, other: object) -> Any:
        return Array()

    def __bool__(self) -> bool:
        raise ValueError("ambiguous")

    __hash__ = None  # type: ignore[assignment]


class RaisingMapping(Mapping[str, Any]):
    def __getitem__(self, key: str) -> Any:
        raise RuntimeError(SECRET)

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError(SECRET)

    def __len__(self) -> int:
        return 1


class RaisingDict(dict[str, Any]):
    def items(self) -> Any:
        raise RuntimeError(SECRET)

    get = keys = values = items  # type: ignore[assignment]


class OddText(str):
    def __eq__(self, other: object) -> bool:
        raise RuntimeError(SECRET)

    def __str__(self) -> str:
        raise RuntimeError(SECRET)

    def encode(self, *args: Any) -> bytes:
        raise RuntimeError(SECRET)

    __hash__ = str.__hash__


class Count(IntEnum):
    SEVEN = 7


def itself() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["one"], value["two"] = value, [value]
    return value


def deep() -> Any:
    value: Any = 1
    for _ in range(400):
        value = {"a": value}
    return value


ODD: dict[str, Any] = {
    "none": None,
    "true": True,
    "text": "a text",
    "surrogate": "\ud800\0",
    "odd text": OddText("odd"),
    "bytes": b"bytes",
    "decimal": Decimal("1.5"),
    "complex": 1 + 2j,
    "nan": math.nan,
    "inf": math.inf,
    "negative": -1,
    "huge": 10**400,
    "largest": 1.7e308,
    "enum": Count.SEVEN,
    "cache details": CACHE_DETAILS,
    "nested": {"nested": {"deeper": [1, {"x": 2}]}},
    "keys": {1: 2, "1": 3, None: 4},
    "odd keys": {b"1": 1, ("a",): 2, "kept": 3},
    "two nan": {math.nan: 1, float("nan"): 2},
    "set": {1, 2},
    "list": [],
    "dict": {},
    "object": object(),
    "raising": Raising(),
    "class": Raising,
    "array": Array(),
    "raising mapping": RaisingMapping(),
    "raising dict": RaisingDict(a=1),
    "itself": itself(),
    "deep": deep(),
    "large": "x" * 2_000_000,
    "iterator": iter([1]),
    "function": lambda: 1,
}


@pytest.fixture(params=ODD)
def odd(request: pytest.FixtureRequest) -> Any:
    """Something that a figure should not be."""
    return ODD[request.param]


def with_metadata(agent: Agent, metadata: Any) -> None:
    """Have each answer come with metadata of somebody else's making, which the SDK itself need not bear."""
    before: Any = {}

    def spoil(event: MessageAddedEvent) -> None:
        message: Any = event.message
        if message["role"] == "assistant":
            before["metadata"], message["metadata"] = message["metadata"], metadata

    def mend(event: MessageAddedEvent) -> None:
        if event.message["role"] == "assistant":
            event.message["metadata"] = before["metadata"]

    around_ours(agent, spoil, mend)


Callback = Callable[[MessageAddedEvent], None]


def around_ours(agent: Agent, spoil: Callback, mend: Callback) -> None:
    """Have something be odd while our handler looks at it."""
    agent.hooks.add_callback(MessageAddedEvent, lambda event: spoil(event), order=-100)
    agent.hooks.add_callback(MessageAddedEvent, lambda event: mend(event), order=100)


def assert_talks(agent: Agent, history: History, answer: str = "Okay.") -> None:
    agent("Hi")
    agent("And?")
    assert texts(history()) == ["Hi", answer, "And?", answer]


def test_bedrocks_cache_details(new_manager: NewManager, new_agent: NewAgent, history: History) -> None:
    usage: Any = {**TOKENS, "cacheWriteInputTokens": 8, "cacheDetails": CACHE_DETAILS}
    manager = new_manager()
    agent = new_agent(manager, model=ScriptedModel(default="Okay.", usage=usage))

    assert_talks(agent, history)

    found = manager.list_messages("default")[-1]
    assert found["metadata"]["usage"] == usage
    assert found["event_loop_metrics"]["usage"] == usage
    assert found["event_loop_metrics"]["accumulated_usage"] == {
        "inputTokens": 20,
        "outputTokens": 10,
        "totalTokens": 30,
        "cacheWriteInputTokens": 16,
    }
    assert manager.get_usage_summary()["usage"] == found["event_loop_metrics"]["accumulated_usage"]
    restored = new_agent(new_manager())
    assert restored.messages == agent.messages


@pytest.mark.parametrize("place", ["metadata", "usage", "metrics", "custom", "name", "figure"])
def test_an_answer_with_odd_metadata(
    new_manager: NewManager, new_agent: NewAgent, history: History, place: str, odd: Any
) -> None:
    metadata: Any = {"usage": dict(TOKENS), "metrics": {"latencyMs": 7}}
    if place == "metadata":
        metadata = odd
    elif place == "figure":
        metadata["usage"]["odd"] = metadata["metrics"]["timeToFirstByteMs"] = odd
    elif place == "name":
        metadata["usage"][type("Name", (), {})() if odd is None else (id(odd),)] = 1
    else:
        metadata[place] = odd
    manager = new_manager()
    agent = new_agent(manager)
    with_metadata(agent, metadata)

    assert_talks(agent, history)

    summary = manager.get_usage_summary()
    if place in ("metrics", "custom", "name", "figure"):
        assert {name: summary["usage"][name] for name in TOKENS} == {name: 2 * n for name, n in TOKENS.items()}
    numbers = [*summary["usage"].values(), *summary["metrics"].values()]
    assert all(type(number) in (int, float) for number in numbers)
    assert all(math.isfinite(number) for number in numbers if isinstance(number, float))
    assert texts(new_agent(new_manager()).messages) == texts(agent.messages)


def test_what_can_be_stored_of_metadata_stays(new_manager: NewManager, new_agent: NewAgent) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    usage = {**TOKENS, "price": Decimal(1), "rates": [1, Decimal(2), {"a": object(), "b": 3}], "loop": itself()}
    with_metadata(agent, {"usage": usage, "metrics": {"latencyMs": 7}, "custom": {"by": {1: "one"}, "seen": {1}}})

    agent("Hi")

    kept = {**TOKENS, "rates": [1, {"b": 3}]}
    found = manager.list_messages("default")[-1]
    assert {name: found["metadata"]["usage"][name] for name in kept} == kept
    assert "price" not in found["metadata"]["usage"]
    assert found["metadata"]["custom"] == {"by": {1: "one"}}


def test_odd_totals(new_manager: NewManager, new_agent: NewAgent, history: History, odd: Any) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    model = agent.model

    def spoil(event: MessageAddedEvent) -> None:
        for name in TOTALS:
            setattr(event.agent.event_loop_metrics, name, odd)

    def mend(event: MessageAddedEvent) -> None:  # the SDK itself counts on
        for name in TOTALS:
            setattr(event.agent.event_loop_metrics, name, getattr(EventLoopMetrics(), name))

    around_ours(agent, spoil, mend)

    assert_talks(agent, history)

    assert agent.model is model
    assert manager.get_usage_summary()["usage"] == {name: 2 * number for name, number in TOKENS.items()}


class OddModel(ScriptedModel):
    """A provider of somebody else's making."""

    odd: Any = None

    @property
    def model_id(self) -> Any:
        return self.odd

    model = model_id


def test_an_odd_model_id(new_manager: NewManager, new_agent: NewAgent, history: History, odd: Any) -> None:
    manager = new_manager()
    model = OddModel(default="Okay.")
    agent = new_agent(manager, model=model, system_prompt="Be brief.")

    def spoil(event: MessageAddedEvent) -> None:
        model.odd, model.config = odd, {"model_id": odd, "model": odd}

    def mend(event: MessageAddedEvent) -> None:
        model.odd, model.config = None, {"model_id": "mended"}

    around_ours(agent, spoil, mend)

    assert_talks(agent, history)

    config = manager.get_agent_config("default")
    assert config == {**config, "system_prompt": "Be brief.", "model": "mended"} if config else False


def test_a_model_that_cannot_be_asked_any_more_leaves_what_is_known(
    new_manager: NewManager, new_agent: NewAgent, history: History
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    agent("Hi")
    model: Any = agent.model

    def spoil(event: MessageAddedEvent) -> None:
        model.config = RaisingMapping()

    def mend(event: MessageAddedEvent) -> None:
        model.config = {}

    around_ours(agent, spoil, mend)

    def spoil_again(event: AfterInvocationEvent) -> None:
        model.config = RaisingMapping()

    agent.hooks.add_callback(AfterInvocationEvent, spoil_again, order=-100)
    agent("And?")

    config = manager.get_agent_config("default")
    assert config is not None
    assert config["model"] == "scripted"


def test_an_odd_system_prompt(
    new_manager: NewManager, new_agent: NewAgent, history: History, monkeypatch: pytest.MonkeyPatch, odd: Any
) -> None:
    manager = new_manager()
    agent = new_agent(manager, system_prompt="Be brief.")
    prompt = agent._system_prompt_content

    def spoil(event: MessageAddedEvent) -> None:
        agent._system_prompt_content = odd

    def mend(event: MessageAddedEvent) -> None:
        agent._system_prompt_content = prompt

    around_ours(agent, spoil, mend)

    assert_talks(agent, history)


# What the tools did


def used_tools(manager: MongoDBSessionManager) -> dict[str, Any]:
    tools: dict[str, Any] = manager.get_usage_summary()["tools"]
    return {name: (usage["calls"], usage["successes"], usage["errors"]) for name, usage in tools.items()}


@pytest.mark.parametrize("calls", [(2, 1), (1, 1), (1, 2), (2, 0), (0, 2)], ids=str)
def test_counters_that_begin_anew_between_turns(
    new_manager: NewManager, new_agent: NewAgent, calls: tuple[int, int]
) -> None:
    manager = new_manager()
    script: list[Any] = []
    for number in calls:
        script += [*(look("kiwi", n) for n in range(number)), "Okay."]
    agent = new_agent(manager, *script, tools=[look_up])

    agent("Hi")
    agent.event_loop_metrics = EventLoopMetrics()
    agent("And?")

    assert used_tools(manager) == {"look_up": (sum(calls), sum(calls), 0)}


def test_odd_counts_of_a_tool(new_manager: NewManager, new_agent: NewAgent, history: History, odd: Any) -> None:
    manager = new_manager()
    agent = new_agent(manager, LOOK, tools=[look_up])
    strange: Any = ToolMetrics(tool={"toolUseId": "t", "name": "strange", "input": {}})
    strange.call_count = strange.success_count = strange.error_count = strange.total_time = odd

    def spoil(event: MessageAddedEvent) -> None:
        event.agent.event_loop_metrics.tool_metrics["strange"] = strange
        event.agent.event_loop_metrics.tool_metrics["stranger"] = odd

    agent.hooks.add_callback(MessageAddedEvent, spoil, order=-100)

    agent("Hi")

    assert history() == agent.messages
    tools = used_tools(manager)
    assert tools["look_up"] == (1, 1, 0)
    assert all(number >= 0 for counts in tools.values() for number in counts)


# Redactions


@pytest.mark.parametrize("place", ["trace", "assessment", "policy", "finding", "label"])
def test_an_odd_guardrail_trace(
    new_manager: NewManager, new_agent: NewAgent, history: History, place: str, odd: Any
) -> None:
    finding: Any = {"name": odd} if place == "label" else odd
    policy: Any = {"topics": [finding]} if place in ("label", "finding") else odd
    assessment: Any = {"one": {"topicPolicy": policy}} if place in ("label", "finding", "policy") else odd
    manager = new_manager()
    agent = new_agent(manager)
    agent("Hi")

    trace = odd if place == "trace" else {"inputAssessment": assessment, "outputAssessments": assessment}
    manager.redact_latest_message({"role": "assistant", "content": [{"text": "-"}]}, agent, guardrail_trace=trace)

    assert texts(history()) == ["Hi", "-"]


# What the log tells


def test_what_is_odd_is_told_without_its_content(
    new_manager: NewManager, new_agent: NewAgent, history: History, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "mongodb_session_manager")
    agent = new_agent(new_manager())
    with_metadata(agent, {"usage": RaisingMapping(), "metrics": {"latencyMs": Decimal(1), SECRET: object()}})

    assert_talks(agent, history)

    ours = [record for record in caplog.records if record.name.startswith("mongodb_session_manager")]
    assert any("could not be observed" in record.getMessage() for record in ours)
    assert any("left out what cannot be stored" in record.getMessage() for record in ours)
    assert SECRET not in caplog.text
    assert {record.levelno for record in ours} == {logging.DEBUG}


# Whatever else there is

# Hypothesis itself does not bear all of them.
ODDITY = "an oddity: "


def with_oddities(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: with_oddities(item) for key, item in value.items()}
    if isinstance(value, list):
        return [with_oddities(item) for item in value]
    return ODD[value.removeprefix(ODDITY)] if isinstance(value, str) and value.startswith(ODDITY) else value


leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.decimals(),
    st.sampled_from(["object", "raising", "array", "raising mapping", "odd text", "huge", "enum"]).map(ODDITY.__add__),
)
names = st.one_of(st.text(max_size=5), st.integers(), st.booleans(), st.none(), st.floats(), st.binary(max_size=3))
shapes = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3))
figures = st.dictionaries(st.sampled_from([*TOKENS, "latencyMs", "timeToFirstByteMs"]) | names, shapes, max_size=5)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(metadata=shapes | st.fixed_dictionaries({}, optional={"usage": figures, "metrics": figures, "custom": shapes}))
def test_any_metadata(
    mongo_client: MongoClient[dict[str, Any]], database: str, new_agent: NewAgent, history: History, metadata: Any
) -> None:
    with MongoDBSessionManager("s-1", client=mongo_client, database_name=database) as manager:
        manager.delete_session()
    with MongoDBSessionManager("s-1", client=mongo_client, database_name=database) as manager:
        agent = new_agent(manager)
        with_metadata(agent, with_oddities(metadata))

        assert_talks(agent, history)
        manager.get_usage_summary()


@every_durability
def test_under_every_durability(
    new_manager: NewManager, new_agent: NewAgent, history: History, durability: str
) -> None:
    agent = new_agent(new_manager(durability=durability))
    with_metadata(agent, {"usage": {"cacheDetails": CACHE_DETAILS, "price": Decimal(1)}})

    assert_talks(agent, history)


# Figures of the call that an interrupt is about, and of the agents in a Graph or Swarm, stand in states


class Priced(ScriptedModel):
    """Reports what a custom provider does beside the tokens."""

    def __init__(self, odd: Any, *turns: Any) -> None:
        super().__init__(turns, default="Okay.")
        self.odd = odd

    async def stream(self, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        async for event in super().stream(*args, **kwargs):
            if "metadata" in event:
                event["metadata"]["usage"] = cast(Any, {**event["metadata"]["usage"], "odd": self.odd})
            yield event


def yes(result: Any) -> Any:
    return [{"interruptResponse": {"interruptId": one.id, "response": "yes"}} for one in result.interrupts]


def an_agent(manager: MongoDBSessionManager, odd: Any, *turns: Any) -> Agent:
    return Agent(session_manager=manager, model=Priced(odd, *turns), tools=[ask], callback_handler=None)


def an_agent_in_a_tool(manager: MongoDBSessionManager, odd: Any, *turns: Any) -> Agent:
    helper = Agent(name="helper", model=Priced(odd, *turns), tools=[ask], callback_handler=None)
    delegated = [{"toolUse": {"toolUseId": "t-1", "name": "helper", "input": {"input": "Help"}}} for _ in turns]
    return Agent(
        session_manager=manager, model=Priced(odd, *delegated), tools=[helper.as_tool()], callback_handler=None
    )


def a_graph(manager: MongoDBSessionManager, odd: Any, *turns: Any) -> Graph:
    builder = GraphBuilder()
    for name, said in {"first": (), "second": turns}.items():
        builder.add_node(Agent(name=name, model=Priced(odd, *said), tools=[ask], callback_handler=None), name)
    builder.add_edge("first", "second")
    return builder.set_graph_id("g").set_max_node_executions(10).set_session_manager(manager).build()


def a_swarm(manager: MongoDBSessionManager, odd: Any, *turns: Any) -> Swarm:
    return Swarm(
        [Agent(name="n", model=Priced(odd, *turns), tools=[ask], callback_handler=None)], session_manager=manager
    )


@pytest.mark.parametrize("name", ["decimal", "set", "object", "odd keys", "two nan", "deep", "cache details"])
@pytest.mark.parametrize("make", [an_agent, an_agent_in_a_tool, a_graph, a_swarm])
def test_an_interrupt_goes_on_in_a_new_process(new_manager: NewManager, make: Any, name: str) -> None:
    with new_manager() as manager:
        asked = make(manager, ODD[name], ASK)("Do it")
        assert asked.interrupts

    with new_manager() as manager:
        answered = make(manager, ODD[name])(yes(asked))
        assert not answered.interrupts

    with new_manager() as manager:
        again = make(manager, ODD[name])
        assert again("And again")
        if isinstance(again, Agent):
            assert "the answer was yes" in str(again.messages) or make is an_agent_in_a_tool


def test_only_what_is_odd_is_left_out_of_a_state(new_manager: NewManager, stored: Stored) -> None:
    a_graph(new_manager(), Decimal(1))("Do it")

    (state,) = stored()["multi_agents"].values()
    result = state["state"]["node_results"]["first"]
    assert result["result"]["message"]["metadata"]["usage"] == TOKENS
    assert result["result"]["message"]["content"] == [{"text": "Okay."}]
    assert result["accumulated_usage"].items() >= TOKENS.items()


def test_an_applications_own_values_are_told(new_manager: NewManager, new_agent: NewAgent) -> None:
    agent = new_agent(new_manager())
    agent.conversation_manager.get_state = lambda: {"metadata": Decimal(1)}  # type: ignore[method-assign]

    with pytest.raises(UnstorableValueError, match=r"conversation_manager_state\.metadata cannot be stored"):
        agent("Hi")
