"""The page of the streaming example: over HTTP, and in a browser where there is one."""

import re
import signal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from pymongo import MongoClient

from tests.examples.browser import Browser
from tests.examples.service import Service
from tests.watching import eventually

EXAMPLE = "example_fastapi_streaming.py"
# Milliseconds for a word: an answer of 41 words is then slow enough to do something meanwhile.
SLOW = 1000


@pytest.fixture
def session_id(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


@pytest.fixture
def address(service: Service, session_id: str) -> str:
    return f"http://127.0.0.1:{service.port}/?session={quote(session_id, safe='')}"


# Over HTTP


def test_the_page_asks_nobody_else(service: Service) -> None:
    reply = service.client.get("/")

    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("text/html")
    assert (
        re.findall(r"(?:https?:)?//[\w.]+|@import|url\(", re.sub(r"^ *// .*| // .*$", "", reply.text, flags=re.M)) == []
    )
    assert re.findall(r'(?:src|href)="(.*?)"', reply.text) == ["data:,"]
    assert "innerHTML" not in reply.text  # what users and models say is no HTML


def test_an_answer_takes_long_enough_to_stop_it_by_hand(service: Service) -> None:
    words, word_ms = re.findall(r"words: (\d+), word_ms: (\d+)", service.client.get("/").text)[0]

    assert 4_000 <= int(words) * int(word_ms) <= 15_000


def test_feedback(service: Service, session_id: str) -> None:
    list(service.stream(session_id, words=5, word_ms=1))

    def rate(session_id: str, **feedback: Any) -> int:
        return service.client.post(f"/sessions/{session_id}/feedback", json=feedback).status_code

    assert rate(session_id, rating="down", message_id=1) == 201
    assert [rate(session_id, rating="up", message_id=number) for number in (99, 2**70)] == [404, 404]
    assert rate("nobody", rating="up", message_id=1) == 404
    assert [rate(session_id, rating=wrong, message_id=1) for wrong in ("five", None, ["up"])] == [422] * 3
    assert [rate(session_id, rating="up", message_id=wrong) for wrong in (-1, "x", None)] == [422] * 3
    stored = service.stored(session_id)
    assert stored
    ((rating, agent_id),) = ((each["rating"], each["agent_id"]) for each in stored["feedbacks"])
    assert (rating, agent_id) == ("down", "assistant")
    assert service.stored("nobody") is None


def test_a_private_server_keeps_its_data_where_it_is_told(tmp_path: Path) -> None:
    service = Service(EXAMPLE, "", tmp_path, "--data", "kept")
    try:
        for seen in (1, 3):
            service.start()
            list(service.stream("s-1", words=5, word_ms=1))
            assert service.texts("s-1")[-1] == f"I can see {seen} messages. "
            service.stop()
    finally:
        service.stop()
        service.client.close()


# In a browser


SHOWN = "[...document.querySelectorAll('#messages li')].map((item) => item.querySelector('span').textContent)"
NOTICE = "document.querySelector('#notice').textContent"


def say(text: str, word_ms: int = 1) -> str:
    return f"pace.word_ms = {word_ms}; prompt.value = {text!r}; form.requestSubmit()"


def test_an_answer_is_streamed_and_rated(service: Service, browser: Browser, address: str, session_id: str) -> None:
    with browser.tab(address) as tab:
        tab.run(say("<b>Hello</b>"))
        tab.wait_for(f"/^I can/.test({SHOWN}[1])")
        tab.wait_for("!send.disabled")
        assert tab.run(SHOWN) == service.texts(session_id)
        assert service.texts(session_id)[0] == "<b>Hello</b>"
        assert tab.run("prompt.value") == ""

        tab.run("document.querySelectorAll('#messages button')[1].click()")
        assert tab.wait_for(NOTICE) == "Thank you."
        pressed = "[...document.querySelectorAll('#messages button')].map((button) => button.ariaPressed)"
        assert tab.run(pressed) == ["false", "true"]
        tab.reload()
        tab.wait_for(f"{SHOWN}.length === 2")
        assert tab.run(pressed) == ["false", "true"]
    stored = service.stored(session_id)
    assert stored
    assert [(each["rating"], each["message_id"]) for each in stored["feedbacks"]] == [("down", 1)]


def test_the_address_names_a_new_conversation(service: Service, browser: Browser) -> None:
    with browser.tab(f"http://127.0.0.1:{service.port}/") as tab:
        session_id = tab.wait_for("new URL(location).searchParams.get('session')")
        tab.run(say("Hello"))
        tab.wait_for(f"{SHOWN}.length === 2 && !send.disabled")
        tab.reload()

        assert tab.wait_for(f"{SHOWN}.length === 2 && {SHOWN}") == service.texts(session_id)
    with browser.tab(f"http://127.0.0.1:{service.port}/") as tab:
        assert tab.wait_for("new URL(location).searchParams.get('session')") != session_id


@pytest.mark.parametrize("session_id", ["a/b?c#d&e=f", "ç %25 ü", "<i>"])
def test_any_session_id_is_one_address(service: Service, browser: Browser, address: str, session_id: str) -> None:
    with browser.tab(address) as tab:
        tab.run(say("Hello"))
        tab.wait_for(f"{SHOWN}.length === 2 && !send.disabled || {NOTICE}")
        stored = service.stored(session_id)
        # What has a slash is no route of the service.
        assert (stored is None, "404" in tab.run(NOTICE) or "Not Found" in tab.run(NOTICE)) == (
            ("/" in session_id,) * 2
        )


def test_words_are_shown_as_they_come(browser: Browser, address: str) -> None:
    with browser.tab(address) as tab:
        tab.run(say("Hello", SLOW))

        first = tab.wait_for(f"{SHOWN}[1]")
        tab.wait_for(f"{SHOWN}[1].length > {len(first)}")
        assert tab.run("send.disabled")


@pytest.mark.parametrize("leave", ["stop.click()", "location.reload()", None], ids=["stop", "reload", "close"])
def test_leaving_in_the_middle_ends_the_answer(
    service: Service, browser: Browser, address: str, session_id: str, leave: str | None
) -> None:
    with browser.tab(address) as tab:
        tab.run(say("Hello", SLOW))
        tab.wait_for(f"{SHOWN}[1]")
        assert "lease" in (service.stored(session_id) or {})
        if leave:
            tab.run(leave)
            assert eventually(lambda: "lease" not in (service.stored(session_id) or {}))

    assert eventually(lambda: "lease" not in (service.stored(session_id) or {}))
    assert service.texts(session_id) == ["Hello"]


def test_of_two_tabs_one_is_refused_politely(service: Service, browser: Browser, address: str, session_id: str) -> None:
    with browser.tab(address) as first, browser.tab(address) as second:
        first.run(say("First", SLOW))
        first.wait_for(f"{SHOWN}[1]")

        second.run(say("Second"))

        assert second.wait_for(NOTICE) == "Another request of this conversation is being answered. Ask again."
        assert second.run("prompt.value") == "Second"  # to be sent again
        assert second.run("[send.disabled, stop.hidden]") == [False, True]
        first.run("stop.click()")
        assert first.wait_for(NOTICE) == "Stopped. The unfinished answer is not kept."
        assert eventually(lambda: "lease" not in (service.stored(session_id) or {}))

        second.run("form.requestSubmit()")
        second.wait_for(f"{SHOWN}.length === 3 && !send.disabled")
        assert second.run(SHOWN)[:2] == ["First", "Second"]


def test_a_server_that_is_killed_and_started_again(
    service: Service, browser: Browser, address: str, session_id: str
) -> None:
    with browser.tab(address) as tab:
        tab.run(say("Before"))
        tab.wait_for(f"{SHOWN}.length === 2 && !send.disabled")
        before = tab.run(SHOWN)

        tab.run(say("Meanwhile", SLOW))
        tab.wait_for(f"{SHOWN}[3]")
        service.stop(signal.SIGKILL)
        assert "cannot be reached" in tab.wait_for(NOTICE)
        service.start()
        tab.reload()

        tab.wait_for(f"{SHOWN}.length === 3")
        assert tab.run(SHOWN) == [*before, "Meanwhile"]
        tab.run(say("At once"))  # the killed process has the lease until it expires
        assert "being answered" in tab.wait_for(NOTICE)
        with MongoClient[dict[str, Any]](service.uri) as client:
            sessions = client.get_default_database()["agent_sessions"]
            sessions.update_one({"_id": session_id}, {"$unset": {"lease": True}})
        tab.run(say("Afterwards"))
        tab.wait_for(f"{SHOWN}.length === 5 && !send.disabled")
        assert tab.run(SHOWN)[3] == "Afterwards"
