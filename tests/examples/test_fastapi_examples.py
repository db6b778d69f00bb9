"""The examples of services as they are used: under uvicorn, over HTTP, with clients that come and go."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from pymongo import MongoClient
from strands.types.session import SessionMessage

from mongodb_session_manager import MongoDBSessionManager, MongoDBSessionRepository
from tests.examples.service import Service
from tests.watching import eventually

CHAT, STREAMING = "example_fastapi.py", "example_fastapi_streaming.py"
CLIENTS = 40


@pytest.fixture(scope="module")
def services(
    uri_of: Callable[[str], str], mongodb_uri: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Service]]:
    """Both, started once: that takes longer than all the requests."""
    database = f"test_fastapi_{os.getpid()}"
    uri = uri_of(database)
    made = {name: Service(name, uri, tmp_path_factory.mktemp("service")) for name in (CHAT, STREAMING)}
    try:
        with ThreadPoolExecutor() as threads:
            list(threads.map(Service.start, made.values()))
        yield made
    finally:
        for service in made.values():
            service.stop()
            service.client.close()
        with MongoClient[dict[str, Any]](mongodb_uri) as client:
            client.drop_database(database)


@pytest.fixture
def chat(services: dict[str, Service], session_id: str) -> Service:
    return services[CHAT]


@pytest.fixture
def streaming(services: dict[str, Service], session_id: str) -> Service:
    return services[STREAMING]


@pytest.fixture
def session_id(request: pytest.FixtureRequest) -> str:
    return str(request.node.name).replace("[", "-").strip("]")


# Chat


def test_a_conversation(chat: Service, session_id: str) -> None:
    answers = [chat.chat(session_id, f"Prompt {number}").json()["answer"] for number in range(3)]

    assert answers == [f"I can see {seen} messages of our conversation." for seen in (1, 3, 5)]
    assert chat.texts(session_id)[::2] == ["Prompt 0", "Prompt 1", "Prompt 2"]
    page = chat.client.get(f"/sessions/{session_id}/history", params={"limit": 2, "offset": 1}).json()
    assert [message["message_id"] for message in page] == [1, 2]


def test_a_history_with_a_picture(services: dict[str, Service], session_id: str) -> None:
    for name, service in services.items():
        service.chat(f"{session_id}-{name}", "Hello").read()
        with MongoClient[dict[str, Any]](service.uri) as client:
            repository = MongoDBSessionRepository(client=client)
            picture: Any = {"image": {"format": "png", "source": {"bytes": b"\x89PNG\0\xff"}}}
            odd: Any = {"toolUse": {"toolUseId": "t", "name": "t", "input": {"n": float("nan"), "half": "\ud83d"}}}
            agent_id = next(config["agent_id"] for config in repository.list_agent_configs(f"{session_id}-{name}"))
            message = SessionMessage({"role": "user", "content": [picture, odd]}, 2)
            repository.create_message(f"{session_id}-{name}", agent_id, message)

        reply = service.client.get(f"/sessions/{session_id}-{name}/history")

        assert reply.status_code == 200
        content = reply.json()[2]["content"]
        assert content[0]["image"]["source"]["bytes"] == {"type": "image/png", "size": 6}
        assert content[1]["toolUse"]["input"] == {"n": "NaN", "half": "\ufffd"}


def test_feedback(chat: Service, session_id: str) -> None:
    chat.chat(session_id, "Hello")

    replies = [
        chat.client.post(f"/sessions/{session_id}/feedback", json=feedback)
        for feedback in (
            *({"rating": "up", "message_id": 1}, {"rating": "down", "comment": "No"}, {"rating": ["?"]}),
            *({"rating": "up", "message_id": 99}, {"message_id": 2**70}, {"message_id": -1}, {"rating": "five"}),
        )
    ]

    assert [reply.status_code for reply in replies] == [201, 201, 422, 404, 404, 422, 422]
    stored = chat.stored(session_id)
    assert stored
    assert [feedback["rating"] for feedback in stored["feedbacks"]] == ["up", "down"]
    assert [feedback.get("agent_id") for feedback in stored["feedbacks"]] == ["assistant", None]
    assert stored["application_name"] == "chat"


def test_a_session_that_nobody_knows(chat: Service, streaming: Service, session_id: str) -> None:
    replies = [
        chat.client.get(f"/sessions/{session_id}/history"),
        chat.client.delete(f"/sessions/{session_id}"),
        chat.client.post(f"/sessions/{session_id}/feedback", json={"rating": "up"}),
        streaming.client.get(f"/sessions/{session_id}/history"),
    ]

    assert [reply.status_code for reply in replies] == [404] * 4
    assert chat.stored(session_id) is None


def test_deleting_twice(chat: Service, session_id: str) -> None:
    chat.chat(session_id, "Hello")

    assert [chat.client.delete(f"/sessions/{session_id}").status_code for _ in range(2)] == [204, 404]
    assert chat.stored(session_id) is None


@pytest.mark.parametrize("query", ["limit=-1", "offset=-1", "limit=x", "limit=1001", f"limit={10**30}"])
def test_a_page_that_is_none(chat: Service, session_id: str, query: str) -> None:
    chat.chat(session_id, "Hello")

    assert chat.client.get(f"/sessions/{session_id}/history?{query}").status_code == 422


@pytest.mark.parametrize("query", ["limit=0", "offset=2", f"offset={10**30}"])
def test_an_empty_page(chat: Service, session_id: str, query: str) -> None:
    chat.chat(session_id, "Hello")

    reply = chat.client.get(f"/sessions/{session_id}/history?{query}")
    assert (reply.status_code, reply.json()) == (200, [])


def test_health_tells_no_credentials(chat: Service) -> None:
    reply = chat.client.get("/health")

    assert reply.status_code == 200
    assert reply.json()["status"] == "connected"
    assert "mongodb://" not in reply.text


def test_many_clients_at_once(chat: Service, session_id: str) -> None:
    def converse(number: int) -> list[str]:
        return [chat.chat(f"{session_id}-{number}", f"I am {number}.").json()["answer"] for _ in range(3)]

    with ThreadPoolExecutor(CLIENTS) as threads:
        answers = list(threads.map(converse, range(CLIENTS)))

    assert answers == [[f"I can see {seen} messages of our conversation." for seen in (1, 3, 5)]] * CLIENTS
    for number in (0, CLIENTS - 1):
        assert chat.texts(f"{session_id}-{number}")[::2] == [f"I am {number}."] * 3
    connections = chat.client.get("/health").json()["connections"]
    assert connections["open"] <= 100
    assert connections["waiting"] == 0


def test_of_two_requests_at_once_one_is_refused(chat: Service, session_id: str) -> None:
    chat.chat(session_id, "Hello")

    def ask(prompt: str) -> httpx.Response:
        return chat.chat(session_id, prompt, thinking_ms=1500)

    with ThreadPoolExecutor(2) as threads:
        replies = list(threads.map(ask, ("One", "Two")))

    (winner,) = [prompt for prompt, reply in zip(("One", "Two"), replies, strict=True) if reply.status_code == 200]
    assert sorted(reply.status_code for reply in replies) == [200, 409]
    assert chat.texts(session_id)[2::2] == [winner]
    assert chat.chat(session_id, "Again").json()["answer"] == "I can see 5 messages of our conversation."


def test_a_retry_in_the_middle_of_a_turn_is_refused_at_once(chat: Service, session_id: str) -> None:
    with ThreadPoolExecutor() as threads:
        first = threads.submit(chat.chat, session_id, "Once", thinking_ms=2000)
        assert eventually(lambda: "lease" in (chat.stored(session_id) or {}))
        retry = chat.chat(session_id, "Once", thinking_ms=2000)
        assert not first.done()

    assert (first.result().status_code, retry.status_code) == (200, 409)
    assert chat.texts(session_id) == ["Once", "I can see 1 messages of our conversation."]


def test_two_requests_that_wait_for_each_other_are_both_answered(chat: Service, session_id: str) -> None:
    def ask(prompt: str) -> httpx.Response:
        return chat.chat(session_id, prompt, thinking_ms=500, wait_seconds=60)

    with ThreadPoolExecutor(2) as threads:
        replies = list(threads.map(ask, ("One", "Two")))

    assert [reply.status_code for reply in replies] == [200, 200]
    answers = sorted(reply.json()["answer"] for reply in replies)
    assert answers == [f"I can see {seen} messages of our conversation." for seen in (1, 3)]
    assert sorted(chat.texts(session_id)[::2]) == ["One", "Two"]


@pytest.mark.parametrize("wait_seconds", [0, 0.2])
def test_a_conversation_that_is_locked(chat: Service, session_id: str, wait_seconds: float) -> None:
    chat.chat(session_id, "Hello")

    with MongoDBSessionManager(session_id, chat.uri, exclusive=True):
        reply = chat.chat(session_id, "Refused", wait_seconds=wait_seconds)
        assert chat.texts(session_id)[::2] == ["Hello"]

    assert (reply.status_code, list(reply.json())) == (409, ["detail"])
    assert chat.chat(session_id, "Again", wait_seconds=wait_seconds).status_code == 200
    assert chat.texts(session_id)[::2] == ["Hello", "Again"]


def test_a_conversation_that_was_deleted_while_it_was_answered(chat: Service, session_id: str) -> None:
    with ThreadPoolExecutor() as threads:
        reply = threads.submit(chat.chat, session_id, "Hello", thinking_ms=1500)
        assert eventually(lambda: chat.stored(session_id) is not None)  # the request is in the middle of its work
        assert chat.client.delete(f"/sessions/{session_id}").status_code == 204

    assert reply.result().status_code == 404
    assert chat.stored(session_id) is None


@pytest.mark.parametrize("wrong", ["s" * 1025, "s" * 201, "a%00b", "a%0Ab", "mongodb:%2F%2Fu:p@h", "%FF", "a%ED%A0%BD"])
@pytest.mark.parametrize("name", [CHAT, STREAMING])
def test_a_session_id_that_is_not_fit(services: dict[str, Service], name: str, wrong: str) -> None:
    service = services[name]
    codes = {service.chat(wrong, "Hello").status_code, service.client.get(f"/sessions/{wrong}/history").status_code}

    assert codes <= {404, 422}  # what has a slash is no route


@pytest.mark.parametrize("wrong", [r'"\ud83d"', "NaN", "-Infinity", "1e999", '"a", "words": NaN, "thinking_ms": NaN'])
@pytest.mark.parametrize("name", [CHAT, STREAMING])
def test_a_body_that_no_answer_can_quote(services: dict[str, Service], session_id: str, name: str, wrong: str) -> None:
    json_type = {"content-type": "application/json"}
    body = f'{{"prompt": {wrong}}}'
    reply = services[name].client.post(f"/sessions/{session_id}/chat", content=body, headers=json_type)

    assert (reply.status_code, reply.json()["detail"][0]["loc"][0]) == (422, "body")
    assert services[name].stored(session_id) is None


@pytest.mark.parametrize("name", [CHAT, STREAMING])
def test_an_outage(name: str, tmp_path: Path, nobodys_port: int) -> None:
    service = Service(name, f"mongodb://127.0.0.1:{nobodys_port}/shop?serverSelectionTimeoutMS=300", tmp_path)
    service.start()
    try:
        replies = [service.chat("s-1", "Hello"), service.client.get("/sessions/s-1/history")]
        if name == CHAT:
            replies.append(service.client.post("/sessions/s-1/feedback", json={"rating": "up"}))
            replies += [service.client.delete("/sessions/s-1"), service.client.get("/health")]
    finally:
        service.stop()
        service.client.close()

    assert {reply.status_code for reply in replies} == {503}


def test_a_server_that_is_stopped_and_started_again(chat: Service, session_id: str) -> None:
    chat.chat(session_id, "Before")

    # A request that is being answered is answered to its end.
    with ThreadPoolExecutor() as threads:
        reply = threads.submit(chat.chat, f"{session_id}-2", "Meanwhile", thinking_ms=1500)
        assert eventually(lambda: chat.stored(f"{session_id}-2") is not None)
        code = chat.stop()
        assert reply.result().status_code == 200
    assert code in {0, -signal.SIGTERM}
    chat.start()

    for name, said_before in ((session_id, "Before"), (f"{session_id}-2", "Meanwhile")):
        assert chat.chat(name, "Afterwards").json()["answer"] == "I can see 3 messages of our conversation."
        assert chat.texts(name)[::2] == [said_before, "Afterwards"]


# Streams


def said(events: list[tuple[str, Any]]) -> str:
    return "".join(data for event, data in events if event == "word")


def test_an_answer_comes_word_by_word(streaming: Service, session_id: str) -> None:
    events = list(streaming.stream(session_id, words=6, word_ms=1))

    assert [event for event, _ in events] == ["word"] * 6 + ["done"]
    assert said(events) == "I can see 1 messages. And "
    assert streaming.texts(session_id) == ["Hello", said(events)]
    assert said(list(streaming.stream(session_id, words=5, word_ms=1))) == "I can see 3 messages. "


def test_many_streams_at_once(streaming: Service, session_id: str) -> None:
    def listen(number: int) -> list[str]:
        return [event for event, _ in streaming.stream(f"{session_id}-{number}", words=5, word_ms=10)]

    with ThreadPoolExecutor(CLIENTS) as threads:
        assert list(threads.map(listen, range(CLIENTS))) == [["word"] * 5 + ["done"]] * CLIENTS


@pytest.mark.parametrize("words_heard", [1, 3])
def test_a_client_that_leaves_in_the_middle(streaming: Service, session_id: str, words_heard: int) -> None:
    list(streaming.stream(session_id, words=5, word_ms=1))

    stream = streaming.stream(session_id, words=60, word_ms=500)
    for _ in range(words_heard):
        next(stream)
    stream.close()  # type: ignore[attr-defined]

    # The invocation has ended, long before the thirty seconds that the answer would take: somebody else may write.
    assert eventually(lambda: "lease" not in (streaming.stored(session_id) or {}))
    # Of the answer nothing is stored.
    assert streaming.texts(session_id) == ["Hello", "I can see 1 messages. ", "Hello"]
    events = list(streaming.stream(session_id, words=5, word_ms=1))
    assert events[-1] == ("done", "")
    assert streaming.texts(session_id)[:3] == ["Hello", "I can see 1 messages. ", "Hello"]
    assert streaming.texts(session_id)[-1] == said(events)


def test_clients_that_leave_are_in_nobodys_way(streaming: Service, session_id: str) -> None:
    before = streaming.log.stat().st_size
    started = threading.Barrier(20)

    def listen(number: int) -> str:
        stream = streaming.stream(f"{session_id}-{number}", words=5, word_ms=40)
        started.wait(timeout=60)
        for event, _ in stream:
            if number % 2 and event == "word":
                stream.close()  # type: ignore[attr-defined]
                return "left"
        return event

    with ThreadPoolExecutor(20) as threads:
        assert list(threads.map(listen, range(20))) == ["done", "left"] * 10

    for number in range(20):
        assert eventually(lambda number=number: bool(streaming.texts(f"{session_id}-{number}")))  # type: ignore[misc]
    assert "Traceback" not in streaming.log.read_text()[before:]


def test_of_two_streams_at_once_one_is_refused(streaming: Service, session_id: str) -> None:
    stream = streaming.stream(session_id, words=5, word_ms=300)
    next(stream)
    assert streaming.chat(session_id, "Hello").status_code == 409

    assert [event for event, _ in stream][-1] == "done"
    assert streaming.texts(session_id) == ["Hello", "I can see 1 messages. "]


def test_a_stream_of_a_locked_conversation(streaming: Service, session_id: str) -> None:
    with MongoDBSessionManager(session_id, streaming.uri, exclusive=True):
        assert streaming.chat(session_id, "Hello").status_code == 409

    assert streaming.texts(session_id) == []


def test_a_conversation_that_is_deleted_in_mid_stream(streaming: Service, session_id: str) -> None:
    stream = streaming.stream(session_id, words=5, word_ms=300)
    next(stream)
    with MongoDBSessionManager(session_id, streaming.uri) as manager:
        manager.delete_session()

    assert [event for event, _ in stream][-1] == "failed"


def test_the_server_is_stopped_while_it_streams(streaming: Service, session_id: str) -> None:
    list(streaming.stream(session_id, words=5, word_ms=1))

    stream = streaming.stream(session_id, words=5, word_ms=300)
    next(stream)
    with ThreadPoolExecutor() as threads:
        stopped = threads.submit(streaming.stop, signal.SIGINT)
        assert [event for event, _ in stream] == ["word"] * 4 + ["done"]
        # SIGINT, as Ctrl+C: this service is not started again.
        assert stopped.result() in {0, -signal.SIGINT}
    stored = streaming.stored(session_id)
    assert stored
    assert len(stored["agents"]["assistant"]["messages"]) == 4


# The others


def test_stream_async(output: Callable[[str], list[str]]) -> None:
    lines = output("example_stream_async.py")

    assert lines[0] == "answer:    You said 1 things, first 'My name is Ada.'."
    assert lines[1].startswith("left:      4 messages, the last one: ")
    assert lines[2] == "goes on:   You said 3 things, first 'My name is Ada.'."
    assert lines[3:] == [
        "Ada:       You said 4 things, first 'My name is Ada.'.",
        "Grace:     You said 1 things, first 'I am Grace.'.",
        "Edsger:    You said 1 things, first 'I am Edsger.'.",
    ]


def test_performance(output: Callable[[str], list[str]]) -> None:
    lines = output("example_performance.py")

    assert lines[1:5] == [
        "  sync:  1 read, 3 writes",
        lines[2],  # writes of "async" may be joined
        "  exit:  1 read, 2 writes",
        "  after 25 turns: 1 read, 4 writes",
    ]
    assert lines[2] in {"  async: 1 read, 3 writes", "  async: 1 read, 2 writes"}
    assert lines[-2].strip().startswith("one client:            1.0 times the time")
    assert float(lines[-1].split()[3]) > 0
