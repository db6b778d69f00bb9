"""Agents' configuration: captured with the writes that happen anyway, and what users change of it stays."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from pymongo import MongoClient
from strands import Agent
from strands.models import BedrockModel, Model
from strands.models.llamacpp import LlamaCppModel

from mongodb_session_manager import MongoDBSessionManager
from mongodb_session_manager.errors import AgentNotFoundError, SessionNotFoundError, UnstorableValueError
from mongodb_session_manager.testing import CommandCounter, Redaction, ScriptedModel
from tests.aliases import NewAgent, NewManager, Stored
from tests.talking import user

Call = Callable[[MongoDBSessionManager], Any]

PROMPT = "You are a friendly support agent."
LINEAGE = {"name": "support", "version": 3, "tags": ["a.b", {"$c": None}]}


def config(model: Any = "scripted", system_prompt: Any = PROMPT, prompt_metadata: Any = None) -> dict[str, Any]:
    return {
        "agent_id": "default",
        "model": model,
        "system_prompt": system_prompt,
        "prompt_metadata": prompt_metadata,
    }


# Capturing


@pytest.mark.parametrize("prompt", [None, "", PROMPT, "línea\nlone \ud800 🦜", "x" * 100_000], ids=lambda p: str(p)[:9])
def test_the_first_write_of_an_agent_stores_it(
    new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter, prompt: str | None
) -> None:
    manager = new_manager()

    with command_counter.counting() as log:
        agent = new_agent(manager, system_prompt=prompt)

    assert log.names == ["update"]
    assert manager.get_agent_config("default") == config(system_prompt=agent.system_prompt)
    assert new_manager().list_agents() == [config(system_prompt=agent.system_prompt)]


def test_queries_find_it_by_its_fields(new_manager: NewManager, new_agent: NewAgent, stored: Stored) -> None:
    new_agent(new_manager(), system_prompt=PROMPT)

    data = stored()["agents"]["default"]["agent_data"]
    assert (data["model"], data["system_prompt"]) == ("scripted", PROMPT)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"system_prompt": "Another."}, config(system_prompt="Another.")),
        ({"system_prompt": None}, config(system_prompt=None)),
        ({"system_prompt": PROMPT, "model": ScriptedModel(default="Ok", model_id="new")}, config("new")),
    ],
    ids=["prompt", "no prompt", "model"],
)
def test_a_new_process_with_another_configuration_writes_it_with_its_first_message(
    new_manager: NewManager,
    new_agent: NewAgent,
    command_counter: CommandCounter,
    options: dict[str, Any],
    expected: dict[str, Any],
) -> None:
    new_agent(new_manager(), system_prompt=PROMPT)("Hi")
    manager = new_manager()
    agent = new_agent(manager, **options)

    with command_counter.counting() as log:
        agent("Hi")

    assert log.names == ["update", "update"]
    assert manager.get_agent_config("default") == expected


@pytest.mark.parametrize("by", ["turn", "sync"])
def test_a_change_in_a_running_agent_is_stored(
    new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter, by: str
) -> None:
    manager = new_manager()
    agent = new_agent(manager, system_prompt=PROMPT)
    agent("Hi")
    agent.system_prompt = "Another."
    agent.model = ScriptedModel(default="Ok", model_id="new")

    with command_counter.counting() as log:
        if by == "turn":
            agent("Hi")
        else:
            manager.sync_agent(agent)

    assert log.names == ["update"] * (2 if by == "turn" else 1)
    assert manager.get_agent_config("default") == config("new", "Another.")


def test_an_unchanged_configuration_is_not_written_again(
    new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter
) -> None:
    new_agent(new_manager(), system_prompt=PROMPT)("Hi")
    agent = new_agent(new_manager(), system_prompt=PROMPT)

    with command_counter.counting() as log:
        agent("Hi")

    changed = {name for command in log.commands for name in command.document["updates"][0]["u"]["$set"]}
    assert not {name for name in changed if "system_prompt" in name or "model" in name or "captured" in name}


def test_an_agent_of_the_first_version(
    new_manager: NewManager, new_agent: NewAgent, observer: MongoClient[dict[str, Any]], database: str
) -> None:
    window = {"__name__": "SlidingWindowConversationManager", "removed_message_count": 0}
    old = {"agent_id": "old", "state": {}, "conversation_manager_state": window}
    data = {**old, "agent_id": "default", "model": "scripted", "system_prompt": PROMPT}
    observer[database].agent_sessions.insert_one(
        {
            "_id": "s-1",
            "session_id": "s-1",
            "agents": {
                "default": {"agent_data": data, "messages": []},
                "old": {"agent_data": old, "messages": []},
            },
        }
    )
    manager = new_manager()
    assert manager.list_agents() == [config(), {**config(None, None), "agent_id": "old"}]
    manager.update_agent_config("default", system_prompt="Edited.")

    new_agent(manager, system_prompt="Edited.")("Hi")

    assert manager.get_agent_config("default") == config(system_prompt="Edited.")


# Changing


@pytest.mark.parametrize(
    "change",
    [
        {"model": "other"},
        {"system_prompt": "Edited."},
        {"system_prompt": ""},
        {"prompt_metadata": LINEAGE},
        {"model": "other", "system_prompt": "Edited.", "prompt_metadata": LINEAGE},
        {},
    ],
    ids=str,
)
def test_a_change_is_one_write_and_leaves_the_rest(
    new_manager: NewManager,
    new_agent: NewAgent,
    stored: Stored,
    command_counter: CommandCounter,
    change: dict[str, Any],
) -> None:
    manager = new_manager()
    new_agent(manager, system_prompt=PROMPT, state={"a": 1})("Hi")
    before = stored()["agents"]["default"]

    with command_counter.counting() as log:
        manager.update_agent_config("default", **change)

    assert log.names == ["update"]
    assert manager.get_agent_config("default") == {**config(), **change}
    after = stored()["agents"]["default"]
    assert {**after, "agent_data": None} == {**before, "agent_data": None}
    assert after["agent_data"]["state"] == {"a": 1}


def further_turn(manager: MongoDBSessionManager, agent: Agent, restart: Callable[[], Agent]) -> None:
    agent("Again")


def changed_state(manager: MongoDBSessionManager, agent: Agent, restart: Callable[[], Agent]) -> None:
    agent.state.set("a", 1)
    manager.sync_agent(agent)


def redaction(manager: MongoDBSessionManager, agent: Agent, restart: Callable[[], Agent]) -> None:
    manager.redact_latest_message(user("…"), agent)


def model_redaction(manager: MongoDBSessionManager, agent: Agent, restart: Callable[[], Agent]) -> None:
    agent.model = ScriptedModel([Redaction()], default="Ok")
    agent("Secret")


def restarted(manager: MongoDBSessionManager, agent: Agent, restart: Callable[[], Agent]) -> None:
    restart()("Again")


def restarted_twice(manager: MongoDBSessionManager, agent: Agent, restart: Callable[[], Agent]) -> None:
    restart()("Again")
    second = restart()
    second.state.set("a", 1)
    second("And again")


def metadata(manager: MongoDBSessionManager, agent: Agent, restart: Callable[[], Agent]) -> None:
    manager.update_metadata({"model": "x", "agents": 1})
    manager.add_feedback({"rating": "up"})


@pytest.mark.parametrize(
    "event", [further_turn, changed_state, redaction, model_redaction, restarted, restarted_twice, metadata]
)
@pytest.mark.parametrize("by", ["update_agent_config", "set_prompt_metadata"])
def test_a_change_survives(new_manager: NewManager, new_agent: NewAgent, event: Callable[..., None], by: str) -> None:
    manager = new_manager()
    agent = new_agent(manager, system_prompt=PROMPT)
    agent("Hi")
    if by == "update_agent_config":
        manager.update_agent_config("default", model="other", system_prompt="Edited.", prompt_metadata=LINEAGE)
        expected = config("other", "Edited.", LINEAGE)
    else:
        manager.set_prompt_metadata("default", LINEAGE)
        expected = config(prompt_metadata=LINEAGE)

    event(manager, agent, lambda: new_agent(new_manager(), system_prompt=PROMPT))

    assert manager.get_agent_config("default") == expected
    assert manager.list_agents() == [expected]


@pytest.mark.parametrize("restart", [False, True], ids=["running", "restarted"])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"system_prompt": "Mine."}, config("other", "Mine.", LINEAGE)),
        ({"system_prompt": "Edited."}, config("other", "Edited.", LINEAGE)),
        ({"model_id": "mine"}, config("mine", "Edited.", LINEAGE)),
    ],
    ids=["prompt", "same prompt", "model"],
)
def test_a_change_gives_way_to_the_agents_own_new_configuration(
    new_manager: NewManager,
    new_agent: NewAgent,
    restart: bool,
    options: dict[str, Any],
    expected: dict[str, Any],
) -> None:
    manager = new_manager()
    agent = new_agent(manager, system_prompt=PROMPT)
    manager.update_agent_config("default", model="other", system_prompt="Edited.", prompt_metadata=LINEAGE)
    prompt = options.get("system_prompt", PROMPT)
    model = ScriptedModel(default="Ok", model_id=options.get("model_id", "scripted"))

    if restart:
        agent = new_agent(new_manager(), system_prompt=prompt, model=model)
    else:
        agent.system_prompt, agent.model = prompt, model
    agent("Hi")

    assert manager.get_agent_config("default") == expected


def test_a_change_that_gave_way_does_not_come_back(new_manager: NewManager, new_agent: NewAgent) -> None:
    manager = new_manager()
    new_agent(manager, system_prompt=PROMPT)
    manager.update_agent_config("default", system_prompt="Edited.")

    for prompt in ("Mine.", PROMPT):
        new_agent(new_manager(), system_prompt=prompt)("Hi")

    assert manager.get_agent_config("default") == config()


def test_lineage_is_replaced_as_a_whole(new_manager: NewManager, new_agent: NewAgent) -> None:
    manager = new_manager()
    new_agent(manager, system_prompt=PROMPT)

    manager.set_prompt_metadata("default", LINEAGE)
    manager.set_prompt_metadata("default", {"version": 4})
    assert manager.get_agent_config("default") == config(prompt_metadata={"version": 4})

    manager.set_prompt_metadata("default", {})
    assert manager.get_agent_config("default") == config(prompt_metadata={})


# Several agents, none, and bad input


def test_all_agents_are_listed(new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter) -> None:
    manager = new_manager()
    assert manager.list_agents() == []
    for agent_id in ("translator", "sup.port", "$a"):
        new_agent(manager, agent_id=agent_id, system_prompt=f"You are {agent_id}.")("Hi")

    with command_counter.counting() as log:
        listed = manager.list_agents()

    assert listed == [
        {**config(system_prompt=f"You are {agent_id}."), "agent_id": agent_id}
        for agent_id in ("translator", "sup.port", "$a")
    ]
    assert log.names == ["aggregate"]
    assert [manager.get_agent_config(each["agent_id"]) for each in listed] == listed


@pytest.mark.parametrize("agent_id", ["stranger", "default.x", "agent_data"])
def test_an_unknown_agent(new_manager: NewManager, new_agent: NewAgent, stored: Stored, agent_id: str) -> None:
    manager = new_manager()
    new_agent(manager)
    before = stored()

    assert manager.get_agent_config(agent_id) is None
    calls: list[Call] = [
        lambda manager: manager.update_agent_config(agent_id, model="other"),
        lambda manager: manager.update_agent_config(agent_id),
        lambda manager: manager.set_prompt_metadata(agent_id, {}),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=agent_id) as caught:
            call(manager)
        assert isinstance(caught.value, AgentNotFoundError)
    assert stored() == before


@pytest.mark.parametrize(
    ("call", "error", "told"),
    [
        (lambda m: m.update_agent_config("default", model=5), TypeError, "model"),
        (lambda m: m.update_agent_config("default", system_prompt=["a"]), TypeError, "system_prompt"),
        (lambda m: m.update_agent_config("default", prompt_metadata="a"), TypeError, "prompt_metadata"),
        (lambda m: m.update_agent_config("default", prompt_metadata={"a": {1}}), UnstorableValueError, "a"),
        (lambda m: m.set_prompt_metadata("default", None), TypeError, "prompt_metadata"),
        (lambda m: m.set_prompt_metadata("default", "a"), TypeError, "prompt_metadata"),
        (lambda m: m.update_agent_config("", model="a"), ValueError, "agent_id"),
        (lambda m: m.update_agent_config(5, model="a"), TypeError, "agent_id"),
        (lambda m: m.get_agent_config("a\0"), ValueError, "agent_id"),
    ],
)
def test_bad_input_is_refused_before_anything_is_sent(
    new_manager: NewManager,
    new_agent: NewAgent,
    command_counter: CommandCounter,
    call: Call,
    error: type[Exception],
    told: str,
) -> None:
    manager = new_manager()
    new_agent(manager)

    with command_counter.counting() as log, pytest.raises(error, match=told):
        call(manager)

    assert log.commands == []


@pytest.mark.parametrize(
    "call",
    [
        lambda manager: manager.get_agent_config("default"),
        lambda manager: manager.update_agent_config("default", model="a"),
        lambda manager: manager.set_prompt_metadata("default", {}),
        lambda manager: manager.list_agents(),
    ],
    ids=["get", "update", "set", "list"],
)
def test_a_deleted_session_is_told(new_manager: NewManager, new_agent: NewAgent, stored: Stored, call: Call) -> None:
    manager = new_manager()
    new_agent(manager)
    new_manager().delete_session()

    with pytest.raises(SessionNotFoundError, match="'s-1'"):
        call(manager)

    assert stored() is None


# Model ids


def stand_in(**attributes: Any) -> ScriptedModel:
    """A model of another provider, which keeps its id where the attributes say."""
    model = ScriptedModel(default="Ok")
    del model.config
    model.get_config = dict  # type: ignore[method-assign]
    for name, value in attributes.items():
        setattr(model, name, value)
    return model


def raising() -> Any:
    raise RuntimeError("no configuration")


@pytest.mark.parametrize(
    ("model", "model_id"),
    [
        (lambda: BedrockModel(model_id="eu.anthropic.claude", region_name="eu-west-1"), "eu.anthropic.claude"),
        (lambda: LlamaCppModel(model_id="qwen"), "qwen"),
        (lambda: ScriptedModel(model_id="scripted-1"), "scripted-1"),
        (lambda: stand_in(config={"model_id": "gpt"}), "gpt"),
        (lambda: stand_in(config={"model": "gpt"}), "gpt"),
        (lambda: stand_in(config=SimpleNamespace(x=1), model_id="gpt"), "gpt"),
        (lambda: stand_in(get_config=lambda: {"model_id": "gpt"}), "gpt"),
        (lambda: stand_in(model_id="gpt"), "gpt"),
        (lambda: stand_in(model="gpt"), "gpt"),
        (lambda: stand_in(config={}, model_id="gpt"), "gpt"),
        (lambda: stand_in(get_config=raising, model_id="gpt"), "gpt"),
        (lambda: stand_in(get_config=lambda: None), None),
        (lambda: stand_in(model_id=5), None),
        (lambda: stand_in(), None),
    ],
    ids=[
        "Bedrock",
        "llama.cpp",
        "scripted",
        "config",
        "config's model",
        "foreign config",
        "get_config",
        "attribute",
        "model attribute",
        "empty config",
        "raising get_config",
        "no config",
        "not a text",
        "nothing",
    ],
)
def test_the_id_of_a_providers_model_is_found(
    new_manager: NewManager, new_agent: NewAgent, model: Callable[[], Model], model_id: str | None
) -> None:
    manager = new_manager()

    new_agent(manager, model=model(), system_prompt=PROMPT)

    assert manager.get_agent_config("default") == config(model_id)


def test_a_model_given_by_name(new_manager: NewManager, new_agent: NewAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    manager = new_manager()

    new_agent(manager, model="eu.anthropic.claude-sonnet-4-20250514-v1:0", system_prompt=PROMPT)

    assert manager.get_agent_config("default") == config("eu.anthropic.claude-sonnet-4-20250514-v1:0")


def test_a_model_that_is_configured_anew(new_manager: NewManager, new_agent: NewAgent) -> None:
    manager = new_manager()
    agent = new_agent(manager, system_prompt=PROMPT)

    agent.model.update_config(model_id="newer")
    agent("Hi")

    assert manager.get_agent_config("default") == config("newer")
