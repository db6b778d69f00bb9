"""Every call that the examples of the reference documents make works as they show it.

The model is a scripted one; what the documents do with AWS hooks is not tested here.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone
from typing import Any, cast

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pymongo import MongoClient
from pymongo.errors import PyMongoError
from strands import Agent
from strands.types.content import Message

import mongodb_session_manager
from mongodb_session_manager import (
    MongoDBConnectionPool,
    MongoDBSessionManager,
    MongoDBSessionManagerFactory,
    close_global_factory,
    create_mongodb_session_manager,
    get_global_factory,
    initialize_global_factory,
)
from mongodb_session_manager.errors import MongoDBSessionError
from mongodb_session_manager.testing import ScriptedModel
from tests.aliases import Client

Open = Callable[..., MongoDBSessionManager]

CLAUDE = "eu.anthropic.claude-sonnet-4-20250514-v1:0"

# The documents use the old spellings too.
pytestmark = pytest.mark.filterwarnings("ignore:.* is the old spelling:DeprecationWarning")


@pytest.fixture
def where(mongodb_uri: str, database_name: str) -> dict[str, Any]:
    """The arguments with which most examples begin."""
    return {"connection_string": mongodb_uri, "database_name": database_name}


@pytest.fixture
def manager(where: dict[str, Any]) -> Iterator[MongoDBSessionManager]:
    manager = create_mongodb_session_manager(session_id="customer-7", **where)
    yield manager
    manager.close()


@pytest.fixture(autouse=True)
def _no_global_client() -> Iterator[None]:
    yield
    close_global_factory()
    MongoDBConnectionPool.close()


def speaking(manager: MongoDBSessionManager, *turns: Any, model_id: str = CLAUDE, **options: Any) -> Agent:
    model = ScriptedModel(turns, model_id=model_id, default="I can help with that.")
    return Agent(model=model, session_manager=manager, callback_handler=None, **options)


def message(role: str, content: Any) -> Message:
    return cast(Message, {"role": role, "content": content})


def texts(messages: list[Any]) -> list[str]:
    return [each["content"][0]["text"] for each in messages]


# readme.md


def test_readme_quick_start(where: dict[str, Any]) -> None:
    manager = create_mongodb_session_manager(session_id="customer-1", application_name="support-bot", **where)
    agent = speaking(manager, "Gladly.", agent_id="helpdesk", system_prompt="You are helpful.")

    response = agent("Can you help me?")
    manager.sync_agent(agent)

    assert str(response).strip() == "Gladly."
    assert manager.get_application_name() == "support-bot"
    manager.close()


def test_readme_version() -> None:
    assert mongodb_session_manager.__version__[0].isdigit()


def test_readme_document_for_queries(
    where: dict[str, Any], manager: MongoDBSessionManager, mongodb_uri: str, database_name: str
) -> None:
    speaking(manager, agent_id="a-1", system_prompt="You are helpful.", state={"key": "value"})("Hello")
    manager.update_metadata({"priority": "high"})
    manager.add_feedback({"rating": "up", "comment": "That helped"})

    with Client(mongodb_uri) as client:
        document = client[database_name].agent_sessions.find_one({"_id": "customer-7"}) or {}

    agent = document["agents"]["a-1"]
    answer = agent["messages"][1]
    assert document["session_id"] == "customer-7"
    assert agent["agent_data"]["model"] == CLAUDE
    assert agent["agent_data"]["system_prompt"] == "You are helpful."
    assert agent["agent_data"]["state"] == {"key": "value"}
    assert answer["event_loop_metrics"]["accumulated_usage"]["inputTokens"] == 10
    assert answer["event_loop_metrics"]["accumulated_metrics"]["latencyMs"] == 1
    assert document["metadata"] == {"priority": "high"}
    assert document["feedbacks"][0]["comment"] == "That helped"
    assert all(isinstance(document[name], datetime) for name in ("created_at", "updated_at"))


def test_readme_fastapi(where: dict[str, Any]) -> None:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        initialize_global_factory(application_name="my-fastapi-app", maxPoolSize=100, minPoolSize=1, **where)
        yield
        close_global_factory()

    app = FastAPI(lifespan=lifespan)

    @app.post("/talk")
    async def talk(session_id: str, prompt: str) -> dict[str, str]:
        manager = get_global_factory().create_session_manager(session_id)
        agent = speaking(manager, agent_id="assistant")
        response = agent(prompt)
        manager.sync_agent(agent)
        return {"response": str(response), "application": str(manager.get_application_name())}

    with TestClient(app) as client:
        answer = client.post("/talk", params={"session_id": "s-1", "prompt": "Hello"}).json()

    assert answer["response"].strip() == "I can help with that."
    assert answer["application"] == "my-fastapi-app"


def reading_hook(original_func: Callable[..., Any], action: str, session_id: str, **kwargs: Any) -> Any:
    if action == "update":
        return original_func(kwargs["metadata"])
    if action == "delete":
        return original_func(kwargs["keys"])
    return original_func()


def feedback_hook(original_func: Callable[..., Any], action: str, session_id: str, **kwargs: Any) -> Any:
    return original_func(kwargs["feedback"])


@pytest.mark.parametrize(
    "hooks",
    [
        {"metadataHook": reading_hook, "feedbackHook": feedback_hook},
        {"metadata_hook": reading_hook, "feedback_hook": feedback_hook},
    ],
    ids=["old spelling", "new spelling"],
)
@pytest.mark.parametrize("make", [create_mongodb_session_manager, MongoDBSessionManager])
def test_readme_hooks(where: dict[str, Any], make: Open, hooks: dict[str, Any]) -> None:
    manager = make(session_id="s-1", collection_name="agent_sessions", **where, **hooks)

    manager.update_metadata({"a": 1, "b": 2})
    manager.delete_metadata(["a"])
    manager.add_feedback({"rating": "up"})

    assert manager.get_metadata() == {"metadata": {"b": 2}}
    assert len(manager.get_feedbacks()) == 1
    manager.close()


def test_readme_metadata_tool(manager: MongoDBSessionManager) -> None:
    use = {"name": "John", "theme": "dark"}
    turn = {"toolUse": {"toolUseId": "t-1", "name": "manage_metadata", "input": {"action": "set", "metadata": use}}}
    agent = speaking(manager, turn, "Stored.", tools=[manager.get_metadata_tool()])

    agent("My name is Ines, and I like dark pages")

    assert manager.get_metadata() == {"metadata": use}


# basic-concepts.md


def test_concepts_adding_messages(manager: MongoDBSessionManager) -> None:
    agent = speaking(manager, "Hi there!", agent_id="assistant")
    manager.append_message(message("user", "Hello"), agent)
    response = agent("Hello")
    manager.append_message(message("assistant", response), agent)
    manager.sync_agent(agent)

    stored = manager.list_messages("assistant")

    assert [each["role"] for each in stored] == ["user", "user", "assistant", "assistant"]
    assert [text.strip() for text in texts(stored)] == ["Hello", "Hello", "Hi there!", "Hi there!"]
    assert [each["message_id"] for each in stored] == [0, 1, 2, 3]


def test_concepts_resuming(where: dict[str, Any]) -> None:
    first = MongoDBSessionManager(session_id="fresh-7", **where)
    speaking(first, agent_id="assistant")("Hello")
    first.close()

    second = MongoDBSessionManager(session_id="fresh-7", **where)
    agent = speaking(second, agent_id="assistant")

    assert texts(agent.messages) == ["Hello", "I can help with that."]
    second.close()


def test_concepts_a_borrowed_connection(mongodb_uri: str, database_name: str) -> None:
    client: Client = MongoClient(mongodb_uri)
    manager = MongoDBSessionManager(session_id="known-7", client=client, database_name=database_name)

    manager.close()

    assert client[database_name].agent_sessions.count_documents({"_id": "known-7"}) == 1
    client.close()


def test_concepts_a_context_manager(where: dict[str, Any]) -> None:
    with MongoDBSessionManager(session_id="known-7", **where) as manager:
        speaking(manager)("Hello")

        assert manager.get_message_count("default") == 2


def test_concepts_metadata(manager: MongoDBSessionManager) -> None:
    manager.update_metadata({"user_id": "ines", "topic": "billing"})
    manager.update_metadata({"priority": "urgent"})
    assert manager.get_metadata()["metadata"] == {"user_id": "ines", "topic": "billing", "priority": "urgent"}

    manager.delete_metadata(["topic"])
    assert manager.get_metadata()["metadata"] == {"user_id": "ines", "priority": "urgent"}


def test_concepts_a_pool(mongodb_uri: str, database_name: str) -> None:
    pool = MongoDBConnectionPool.initialize(connection_string=mongodb_uri, maxPoolSize=100)
    client = MongoDBConnectionPool.get_client()
    assert client is pool

    for session_id in ("known-7", "session-002"):
        manager = MongoDBSessionManager(session_id=session_id, client=client, database_name=database_name)
        manager.update_metadata({"a": 1})
        manager.close()

    assert MongoDBConnectionPool.get_pool_stats()["status"] == "connected"


def test_concepts_a_factory(where: dict[str, Any]) -> None:
    factory = MongoDBSessionManagerFactory(maxPoolSize=100, **where)
    managers = [factory.create_session_manager(f"session-00{number}") for number in (1, 2, 3)]

    assert len({id(manager.session_repository.client) for manager in managers}) == 1
    factory.close()


def test_concepts_a_global_factory(where: dict[str, Any]) -> None:
    factory = initialize_global_factory(**where)

    assert get_global_factory() is factory
    get_global_factory().create_session_manager("known-7").update_metadata({"a": 1})
    close_global_factory()


def test_concepts_handling_errors(where: dict[str, Any]) -> None:
    with pytest.raises(PyMongoError):
        MongoDBSessionManager("s-1", "mongodb://127.0.0.1:1/", serverSelectionTimeoutMS=50)


# api-session-manager.md


@pytest.mark.parametrize(
    "options",
    [
        {"collection_name": "sessions"},
        {"collection_name": "sessions", "maxPoolSize": 50, "minPoolSize": 5, "retryWrites": True},
        {"metadata_fields": ["priority", "status", "category"]},
        {"maxIdleTimeMS": 1000, "waitQueueTimeoutMS": 1000, "serverSelectionTimeoutMS": 5000},
        {"connectTimeoutMS": 1000, "socketTimeoutMS": 5000, "retryReads": False, "compressors": ["zlib"]},
        {"w": 1, "journal": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("make", [create_mongodb_session_manager, MongoDBSessionManager])
def test_api_options(where: dict[str, Any], make: Open, options: dict[str, Any]) -> None:
    manager = make(session_id="customer-7", **where, **options)

    manager.update_metadata({"priority": "high"})

    assert manager.get_metadata() == {"metadata": {"priority": "high"}}
    manager.close()


def test_api_constructor_hooks(where: dict[str, Any]) -> None:
    told: list[Any] = []

    def audit(original_func: Callable[..., Any], action: str, session_id: str, **kwargs: Any) -> Any:
        told.append((action, session_id))
        return original_func(**kwargs) if kwargs else original_func()

    def notify(original_func: Callable[..., Any], action: str, session_id: str, **kwargs: Any) -> Any:
        result = original_func(kwargs["feedback"])
        told.append((session_id, kwargs["feedback"]))
        return result

    manager = MongoDBSessionManager("customer-7", metadata_hook=audit, feedback_hook=notify, **where)
    manager.update_metadata({"a": 1})
    manager.add_feedback({"rating": "down"})
    manager.delete_metadata(["a"])

    assert manager.get_metadata() == {}
    actions = [
        ("update", "customer-7"),
        ("customer-7", {"rating": "down"}),
        ("delete", "customer-7"),
        ("get", "customer-7"),
    ]
    assert told == actions
    manager.close()


def test_api_append_and_redact(manager: MongoDBSessionManager) -> None:
    agent = speaking(manager)
    manager.append_message(message("user", "Hello, how are you?"), agent)
    manager.append_message(message("assistant", "My password is 1234"), agent)

    manager.redact_latest_message(message("assistant", "[Content removed]"), agent)

    assert texts(manager.list_messages("default")) == ["Hello, how are you?", "[Content removed]"]


def test_api_sync_agent(manager: MongoDBSessionManager) -> None:
    agent = speaking(manager)
    agent("Which river runs through Lyon?")

    manager.sync_agent(agent)

    metrics = manager.list_messages("default")[-1]["event_loop_metrics"]
    assert metrics["accumulated_metrics"]["latencyMs"] == agent.event_loop_metrics.accumulated_metrics["latencyMs"]
    assert metrics["accumulated_usage"]["totalTokens"] == agent.event_loop_metrics.accumulated_usage["totalTokens"]


def test_api_initialize_after_a_restart(where: dict[str, Any]) -> None:
    for prompt in ("My name is Ines", "What's my name?"):
        manager = MongoDBSessionManager("customer-7", **where)
        agent = speaking(manager)
        manager.initialize(agent)
        agent(prompt)
        manager.sync_agent(agent)
        manager.close()

    assert texts(agent.messages)[::2] == ["My name is Ines", "What's my name?"]


def test_api_metadata(manager: MongoDBSessionManager) -> None:
    assert manager.get_metadata() == {}
    manager.update_metadata({"customer_name": "Ines", "priority": "high", "category": "support"})
    manager.update_metadata({"priority": "low"})
    manager.update_metadata({"agent_state": "thinking"})
    manager.update_metadata({"status": "active", "last_interaction": "2026-03-04T05:06:07"})

    metadata = manager.get_metadata()
    assert "metadata" in metadata
    assert metadata["metadata"].get("customer_name") == "Ines"
    assert metadata["metadata"]["priority"] == "low"

    manager.delete_metadata(["agent_state", "last_interaction"])
    assert set(manager.get_metadata()["metadata"]) == {"customer_name", "priority", "category", "status"}


def test_api_metadata_tool(manager: MongoDBSessionManager) -> None:
    tool = manager.get_metadata_tool()
    manager.update_metadata({"outdated": 1})

    assert tool(action="get") == 'All metadata: {"outdated": 1}'
    assert tool(action="set", metadata={"priority": "high"}) == "Successfully updated metadata fields: ['priority']"
    assert tool(action="update", metadata={"a": 1}) == "Successfully updated metadata fields: ['a']"
    assert tool(action="delete", keys=["outdated"]) == "Successfully deleted metadata fields: ['outdated']"
    assert tool(action="get", keys=["priority", "a"]).startswith("Metadata retrieved: ")
    assert tool("set", {"newsletter": "enabled"}).startswith("Successfully updated")
    assert tool("get").startswith("All metadata: ")


def test_api_feedback(manager: MongoDBSessionManager) -> None:
    given: list[dict[str, Any]] = [
        {"rating": "up", "comment": "That was it!"},
        {"rating": "down", "comment": "It took long"},
        {"rating": None, "comment": "No opinion"},
        {"rating": "up", "comment": "Spot on", "category": "accuracy", "user_id": "customer-7"},
    ]
    for feedback in given:
        manager.add_feedback(feedback)

    feedbacks = manager.get_feedbacks()

    assert [(each["rating"], each["comment"]) for each in feedbacks] == [(f["rating"], f["comment"]) for f in given]
    assert str(feedbacks[0]["created_at"]).endswith("+00:00")


def test_api_agent_configuration(manager: MongoDBSessionManager) -> None:
    agent = speaking(manager, agent_id="helpdesk", system_prompt="You are a friendly support agent.")
    agent("Hello!")
    config = manager.get_agent_config("helpdesk")
    assert config
    assert (config["agent_id"], config["model"]) == ("helpdesk", CLAUDE)
    assert (config["system_prompt"] or "")[:9] == "You are a"

    manager.update_agent_config("helpdesk", model="haiku")
    manager.update_agent_config("helpdesk", system_prompt="You are efficient.")
    manager.update_agent_config("helpdesk", model="opus", system_prompt="You are an expert.")

    config = manager.get_agent_config("helpdesk")
    assert config
    assert (config["model"], config["system_prompt"]) == ("opus", "You are an expert.")
    assert manager.get_agent_config("stranger") is None


def test_api_several_agents(manager: MongoDBSessionManager) -> None:
    translator = speaking(manager, agent_id="translator", system_prompt="You translate.")
    support = speaking(manager, agent_id="support", system_prompt="You support.", model_id="haiku")
    translator("Say hello in French")
    support("Where is my parcel?")

    agents = manager.list_agents()

    assert [(each["agent_id"], each.get("model")) for each in agents] == [("translator", CLAUDE), ("support", "haiku")]
    assert [str(each.get("system_prompt", "Not captured"))[:50] for each in agents] == [
        "You translate.",
        "You support.",
    ]


@pytest.mark.parametrize("borrowed", [False, True], ids=["owned", "borrowed"])
def test_api_close_is_safe_to_repeat(mongodb_uri: str, database_name: str, borrowed: bool) -> None:
    with Client(mongodb_uri) as client:
        connection: dict[str, Any] = {"client": client} if borrowed else {"connection_string": mongodb_uri}
        manager = MongoDBSessionManager(session_id="customer-7", database_name=database_name, **connection)

        manager.close()
        manager.close()

        assert client.admin.command("ping")


def test_api_audit_and_validation_hooks(where: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("audit")

    def audit(original_func: Callable[..., Any], action: str, session_id: str, **kwargs: Any) -> Any:
        log.info("%s on %s: %s", action, session_id, sorted(kwargs.get("metadata", kwargs.get("keys", ()))))
        if action == "get":
            result = original_func()
            log.info("%d fields", len(result.get("metadata", {})))
            return result
        return original_func(kwargs["metadata"] if action == "update" else kwargs["keys"])

    def validate(original_func: Callable[..., Any], action: str, session_id: str, **kwargs: Any) -> Any:
        if action == "update" and kwargs["metadata"].get("priority", "low") not in ("low", "high"):
            raise ValueError("Invalid priority")
        return reading_hook(original_func, action, session_id, **kwargs)

    with caplog.at_level(logging.INFO, "audit"):
        with MongoDBSessionManager("s-1", metadata_hook=audit, **where) as manager:
            manager.update_metadata({"priority": "low"})
            manager.get_metadata()
            manager.delete_metadata(["other"])
        with MongoDBSessionManager("s-1", metadata_hook=validate, **where) as manager:
            with pytest.raises(ValueError, match="Invalid priority"):
                manager.update_metadata({"priority": "sometimes"})
            assert manager.get_metadata() == {"metadata": {"priority": "low"}}

    told = [record.getMessage() for record in caplog.records if record.name == "audit"]
    assert told == ["update on s-1: ['priority']", "get on s-1: []", "1 fields", "delete on s-1: ['other']"]


@pytest.mark.parametrize("before", [False, True], ids=["after storing", "with the feedback at hand"])
def test_api_notification_and_analytics_hooks(where: dict[str, Any], before: bool) -> None:
    alerts: list[str] = []

    def notify(original_func: Callable[..., Any], action: str, session_id: str, **kwargs: Any) -> Any:
        feedback = kwargs["feedback"]
        result = original_func(feedback) if before else original_func(kwargs["feedback"])
        if feedback.get("rating") == "down":
            alerts.append(f"{session_id}: {feedback.get('comment', 'nothing said')}")
        return result

    with MongoDBSessionManager("customer-7", feedback_hook=notify, **where) as manager:
        manager.add_feedback({"rating": "up"})
        manager.add_feedback({"rating": "down", "comment": "It took long"})

    assert alerts == ["customer-7: It took long"]


def test_api_complete_example(where: dict[str, Any]) -> None:
    fields = ["priority", "status"]
    manager = MongoDBSessionManager("s-1", collection_name="sessions", metadata_fields=fields, maxPoolSize=50, **where)
    agent = speaking(manager, tools=[manager.get_metadata_tool()])
    manager.initialize(agent)
    manager.update_metadata(
        {"customer_name": "Ines", "priority": "high", "session_start": datetime.now(timezone.utc).isoformat()}
    )
    agent("My parcel is late")
    manager.sync_agent(agent)
    manager.update_metadata({"status": "active"})
    agent("Where is it now?")
    manager.sync_agent(agent)
    manager.add_feedback({"rating": "up", "comment": "That was it!"})

    assert set(manager.get_metadata()["metadata"]) == {"customer_name", "priority", "session_start", "status"}
    assert len(manager.get_feedbacks()) == 1
    assert len(manager.list_messages("default")) == 4
    manager.close()


# What cannot work as it is shown, and is told


@pytest.mark.parametrize("make", [create_mongodb_session_manager, MongoDBSessionManager])
def test_a_snippet_without_a_connection(make: Open) -> None:
    with pytest.raises(ValueError, match="connection_string"):
        make(session_id="customer-7")


def test_a_second_agent_object_on_the_same_manager(manager: MongoDBSessionManager) -> None:
    first = speaking(manager)
    first("My name is Ines")

    with pytest.raises(MongoDBSessionError, match="make a new manager"):
        speaking(manager)


# faq.md


def test_faq_resuming_a_conversation(where: dict[str, Any]) -> None:
    for prompt in ("My name is Ines", "What's my name?"):
        manager = create_mongodb_session_manager(session_id="customer-7-parcel", **where)
        agent = speaking(manager, agent_id="assistant")
        agent(prompt)
        manager.sync_agent(agent)
        manager.close()

    seen = cast(ScriptedModel, agent.model).calls[-1]
    assert texts(seen) == ["My name is Ines", "I can help with that.", "What's my name?"]


def test_faq_two_agents(manager: MongoDBSessionManager) -> None:
    support = speaking(manager, agent_id="support", system_prompt="You support.")
    sales = speaking(manager, agent_id="sales", model_id="haiku", system_prompt="You sell.")

    support("I need help with my order")
    sales("Tell me about pricing")

    assert texts(manager.list_messages("support"))[0] == "I need help with my order"
    assert texts(manager.list_messages(agent_id="sales"))[0] == "Tell me about pricing"


def test_faq_deleting_from_mongodb(where: dict[str, Any], mongodb_uri: str, database_name: str) -> None:
    for session_id in ("old", "new"):
        create_mongodb_session_manager(session_id=session_id, **where).close()

    with Client(mongodb_uri) as client:
        sessions = client[database_name]["agent_sessions"]
        assert sessions.delete_one({"_id": "old"}).deleted_count == 1
        cutoff = datetime.now(timezone.utc) - timedelta(days=30)
        assert sessions.delete_many({"created_at": {"$lt": cutoff}}).deleted_count == 0
        cutoff = datetime.now(timezone.utc) + timedelta(days=1)
        assert sessions.delete_many({"created_at": {"$lt": cutoff}}).deleted_count == 1


def test_faq_factory_options(where: dict[str, Any]) -> None:
    factory = initialize_global_factory(maxPoolSize=200, minPoolSize=2, maxIdleTimeMS=30000, **where)
    factory.create_session_manager("s-1")

    stats = get_global_factory().get_connection_stats()

    assert stats["status"] == "connected"
    assert stats["pool_config"]["maxPoolSize"] == 200


@pytest.mark.parametrize("framework", ["Flask view", "Django AppConfig.ready"])
def test_faq_other_frameworks(mongodb_uri: str, framework: str) -> None:
    initialize_global_factory(connection_string=mongodb_uri)

    manager = get_global_factory().create_session_manager(framework)
    try:
        assert manager.get_message_count("default") == 0
    finally:
        assert manager.delete_session() is True


async def test_faq_streaming(manager: MongoDBSessionManager) -> None:
    agent = speaking(manager, "Once upon a time.")
    manager.append_message(message("user", "Tell me a story"), agent)

    chunks = [event["data"] async for event in agent.stream_async("Tell me a story") if "data" in event]
    manager.append_message(message("assistant", "".join(chunks)), agent)
    manager.sync_agent(agent)

    assert "".join(chunks) == "Once upon a time."
    story = ["Tell me a story", "Tell me a story", "Once upon a time.", "Once upon a time."]
    assert texts(await asyncio.to_thread(manager.list_messages, "default")) == story


def test_faq_a_hook_that_adds_a_field(where: dict[str, Any]) -> None:
    def stamp(original_func: Callable[..., Any], action: str, session_id: str, **kwargs: Any) -> Any:
        if action == "update":
            kwargs["metadata"]["last_updated"] = "now"
        return reading_hook(original_func, action, session_id, **kwargs)

    with MongoDBSessionManager(session_id="test", metadataHook=stamp, **where) as manager:
        manager.update_metadata({"a": 1})

        assert manager.get_metadata() == {"metadata": {"a": 1, "last_updated": "now"}}


def test_faq_a_hook_that_encrypts(where: dict[str, Any]) -> None:
    def encrypt(original_func: Callable[..., Any], action: str, session_id: str, **kwargs: Any) -> Any:
        if action == "update" and "iban" in kwargs["metadata"]:
            kwargs["metadata"]["iban"] = "****"
        return original_func(kwargs.get("metadata"), kwargs.get("keys"))

    with MongoDBSessionManager(session_id="test", metadata_hook=encrypt, **where) as manager:
        manager.update_metadata({"iban": "4111", "pin": "1", "name": "Ines"})
        assert manager.get_metadata() == {"metadata": {"iban": "****", "pin": "1", "name": "Ines"}}

        manager.delete_metadata(["iban", "pin", "birthday"])
        assert manager.get_metadata() == {"metadata": {"name": "Ines"}}


def test_faq_tenants(mongodb_uri: str, database_name: str) -> None:
    made: list[tuple[str, dict[str, Any]]] = [
        ("tenant-1-session-2", {}),
        ("s", {"database_name": database_name}),
        ("s", {"database_name": database_name, "collection_name": "sessions_1"}),
    ]
    for number, (session_id, place) in enumerate(made):
        with create_mongodb_session_manager(session_id, mongodb_uri, **place) as manager:
            manager.update_metadata({"number": number})

    for number, (session_id, place) in enumerate(made):
        with create_mongodb_session_manager(session_id, mongodb_uri, **place) as manager:
            assert manager.get_metadata() == {"metadata": {"number": number}}
            manager.delete_session()


def test_faq_collecting_metrics(manager: MongoDBSessionManager) -> None:
    agent = speaking(manager, agent_id="assistant")
    agent("Hello")
    agent("Hello again")

    messages = manager.list_messages(agent_id="assistant")
    latest = max(
        each.get("event_loop_metrics", {}).get("accumulated_usage", {}).get("totalTokens", 0) for each in messages
    )

    assert len(messages) == 4
    assert latest == agent.event_loop_metrics.accumulated_usage["totalTokens"] == 30


def test_faq_the_logger(manager: MongoDBSessionManager, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "mongodb_session_manager"):
        manager.update_metadata({"a": 1})

    assert any(record.name.startswith("mongodb_session_manager.") for record in caplog.records)
