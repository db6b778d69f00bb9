"""One hook and equal session ids in several places: what is told of a session goes to its own browser and outbox."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from pymongo import MongoClient

from mongodb_session_manager import (
    MongoDBSessionManager,
    MongoDBSessionManagerFactory,
    create_feedback_sns_hook,
    create_metadata_sqs_hook,
    create_metadata_websocket_hook,
)
from mongodb_session_manager._schema.limits import Limits
from mongodb_session_manager.hooks.dispatcher import Dispatcher
from mongodb_session_manager.testing import running_mongodb
from tests.aliases import Client
from tests.watching import eventually

SESSION = "s-1"


@pytest.fixture(scope="module")
def other_server() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MONGODB_URI", raising=False)
        with running_mongodb() as uri:
            yield uri


@dataclass
class Tenant:
    """One of those who have a session of the same id, and what was told of theirs."""

    client: Client
    database: str
    collection: str
    name: str
    told: Callable[[int], list[Any]] = field(default=lambda count: [])

    def manager(self, **options: Any) -> MongoDBSessionManager:
        place: dict[str, Any] = {"database_name": self.database, "collection_name": self.collection}
        return MongoDBSessionManager(SESSION, client=self.client, **place, **options)

    def outbox(self) -> list[dict[str, Any]]:
        stored = self.client[self.database][self.collection].find_one({"_id": SESSION}) or {}
        return list(stored.get("outbox", []))


@pytest.fixture(params=["databases", "collections", "servers"])
def tenants(request: pytest.FixtureRequest, mongo_client: Client, database_name: str) -> Iterator[list[Tenant]]:
    with ExitStack() as stack:
        places: list[tuple[Client, str, str]] = [(mongo_client, database_name, "sessions")]
        if request.param == "servers":
            other: Client = stack.enter_context(MongoClient(request.getfixturevalue("other_server")))
            places.append((other, database_name, "sessions"))
        elif request.param == "databases":
            places.append((mongo_client, f"{database_name}_b", "sessions"))
            stack.callback(mongo_client.drop_database, f"{database_name}_b")
        else:
            places.append((mongo_client, database_name, "others"))
        yield [Tenant(*place, name) for place, name in zip(places, "ab", strict=True)]


class Kind:
    """A hook, how a call that it tells of is made, and what came of it."""

    hook: Any

    def __init__(self, aws: Any, delivery: str, stack: ExitStack) -> None:
        self.aws, self.delivery, self.stack = aws, delivery, stack

    def prepare(self, tenants: list[Tenant]) -> None:
        pass


class Feedback(Kind):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        arn, self.queue = self.aws.topic()
        self.hook = create_feedback_sns_hook(
            arn,
            arn,
            arn,
            delivery=self.delivery,
            endpoint_url=self.aws.faulty_url,
        )
        self.options = {"feedback_hook": self.hook}
        self.fault = {"service": "sns", "operation": "Publish"}

    def change(self, manager: MongoDBSessionManager, text: str) -> None:
        manager.add_feedback({"rating": "up", "comment": text})

    def told(self, tenant: Tenant, count: int) -> list[str]:
        messages = self.aws.events(self.queue, count)
        return [message["Message"].splitlines()[-1] for message in messages]


class Queue(Kind):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.queue = self.aws.queue()
        self.hook = create_metadata_sqs_hook(self.queue, ["text"], delivery=self.delivery)
        self.options = {"metadata_hook": self.hook}
        self.fault = {"service": "sqs", "operation": "SendMessage"}

    def change(self, manager: MongoDBSessionManager, text: str) -> None:
        manager.update_metadata({"text": text})

    def told(self, tenant: Tenant, count: int) -> list[str]:
        return [event["metadata"]["text"] for event in self.aws.events(self.queue, count)]


class Browser(Queue):
    def __init__(self, *args: Any) -> None:
        Kind.__init__(self, *args)
        self.hook = create_metadata_websocket_hook(
            self.aws.websocket_endpoint,
            ["text"],
            delivery=self.delivery,
        )
        self.options = {"metadata_hook": self.hook}
        self.fault = {"service": "apigatewaymanagementapi"}
        self.browsers: dict[str, Any] = {}

    def prepare(self, tenants: list[Tenant]) -> None:
        for tenant in tenants:
            self.browsers[tenant.name], connection_id = self.stack.enter_context(self.aws.browser())
            with tenant.manager() as manager:
                manager.update_metadata({"connection_id": connection_id})

    def told(self, tenant: Tenant, count: int) -> list[str]:
        client: Any = self.browsers[tenant.name]
        found: list[str] = []
        with suppress(TimeoutError):
            while True:
                found.append(json.loads(client.recv(timeout=0.3 if len(found) >= count else 10))["metadata"]["text"])
        return found


KINDS = {"sns": Feedback, "sqs": Queue, "websocket": Browser}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, aws: Any, delivery: str) -> Iterator[Any]:
    with ExitStack() as stack:
        yield KINDS[request.param](aws, delivery, stack)


@pytest.fixture(params=["best_effort", "at_least_once"])
def delivery(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def told_of_all(kind: Any, tenants: list[Tenant], count: int) -> dict[str, list[str]]:
    """What each tenant was told; a queue and a topic are told of all, and the texts say whose they are."""
    if isinstance(kind, Browser):
        return {tenant.name: kind.told(tenant, count) for tenant in tenants}
    texts = kind.told(tenants[0], count * len(tenants))
    return {tenant.name: [text for text in texts if text.startswith(tenant.name)] for tenant in tenants}


def test_each_is_told_of_their_own(kind: Any, delivery: str, tenants: list[Tenant]) -> None:
    kind.prepare(tenants)
    kind.aws.fail({**kind.fault, "latency": 500})
    with ExitStack() as stack:
        managers = [stack.enter_context(closing(tenant.manager(**kind.options))) for tenant in tenants]
        for number in range(3):
            for tenant, manager in zip(tenants, managers, strict=True):
                kind.change(manager, f"{tenant.name}{number}")
                assert bool(tenant.outbox()) == (delivery == "at_least_once")
        kind.hook.flush(20)

    assert told_of_all(kind, tenants, 3) == {"a": ["a0", "a1", "a2"], "b": ["b0", "b1", "b2"]}
    assert eventually(lambda: [tenant.outbox() for tenant in tenants] == [[], []])


def test_a_manager_that_goes_takes_nothing_of_another_ones(kind: Any, delivery: str, tenants: list[Tenant]) -> None:
    """A streaming chat and a GET of the same session at the same time."""
    kind.prepare(tenants)
    first, stranger = tenants
    with first.manager(**kind.options) as chat:
        kind.change(chat, "a0")
        with first.manager(**kind.options):
            kind.change(chat, "a1")
        stranger.manager(**kind.options).close()
        kind.aws.fail({**kind.fault, "latency": 500})
        kind.change(chat, "a2")
        assert bool(first.outbox()) == (delivery == "at_least_once")
        kind.hook.flush(20)

    assert told_of_all(kind, [first], 3) == {"a": ["a0", "a1", "a2"]}
    assert eventually(lambda: first.outbox() == [])
    assert stranger.outbox() == []


def test_what_is_queued_outlives_its_manager_and_factory(
    kind: Any, delivery: str, tenants: list[Tenant], mongodb_uri: str
) -> None:
    """The client stays open until the delivery is done, though everybody who waits has given up."""
    kind.prepare(tenants)
    tenant = tenants[0]
    place: dict[str, Any] = {"database_name": tenant.database, "collection_name": tenant.collection}
    place["_limits"] = Limits(close_timeout=0.1)
    kind.aws.fail({**kind.fault, "latency": 1000})

    with MongoDBSessionManager(SESSION, mongodb_uri, **place, **kind.options) as manager:
        kind.change(manager, "a0")
    with (
        MongoDBSessionManagerFactory(mongodb_uri, **place, **kind.options) as factory,
        factory.create_session_manager(SESSION) as made,
    ):
        kind.change(made, "a1")

    assert sorted(told_of_all(kind, [tenant], 2)["a"]) == ["a0", "a1"]
    assert eventually(lambda: tenant.outbox() == [])
    for handle in (manager._stores.handle, factory._handle):
        assert eventually(lambda handle=handle: handle.closed)  # type: ignore[misc]


@pytest.mark.parametrize("delivery", ["at_least_once"], indirect=True)  # best effort leaves nothing
def test_what_was_left_is_sent_and_acknowledged_where_it_is(kind: Any, tenants: list[Tenant], delivery: str) -> None:
    """Equal records in two places, as after a copy: each is delivered for its own."""
    kind.prepare(tenants)
    kind.aws.fail({**kind.fault, "error": {"code": "AccessDenied", "status": 403}})
    kind.hook._dispatcher = Dispatcher(retry_delays=())
    first, second = tenants
    with first.manager(**kind.options) as manager:
        kind.change(manager, "both")
    assert eventually(lambda: len(kind.hook._dispatcher) == 0)
    (record,) = first.outbox()
    second.manager().close()
    second.client[second.database][second.collection].update_one({"_id": SESSION}, {"$set": {"outbox": [record]}})
    kind.aws.fail({**kind.fault, "latency": 300})

    with ExitStack() as stack:
        for tenant in tenants:
            stack.enter_context(closing(tenant.manager(**kind.options)))

    assert eventually(lambda: [tenant.outbox() for tenant in tenants] == [[], []])
    if isinstance(kind, Browser):
        assert [kind.told(tenant, 1) for tenant in tenants] == [["both"], ["both"]]
    else:
        assert kind.told(first, 2) == ["both", "both"]
