"""The chats of a user: over HTTP, and in a browser where there is one."""

from pathlib import Path
from typing import Any

import pytest

from tests.examples.browser import Browser
from tests.examples.service import Service

EXAMPLE = "example_sidebar.py"
CHATS = "[...document.querySelectorAll('#chats button')].map((entry) => entry.textContent)"
SHOWN = "[...document.querySelectorAll('#messages li')].map((item) => item.querySelector('span').textContent)"
NOTICE = "document.querySelector('#notice').textContent"
LAST_BUTTON = "[...document.querySelectorAll('#messages button')].at(-1)"


class Person:
    """A user of the service."""

    def __init__(self, service: Service, name: str) -> None:
        self._service, self.name = service, name

    def ask(self, method: str, path: str = "", body: Any = None, **query: Any) -> Any:
        status, found = self.answer(method, path, body, **query)
        assert status < 300, found
        return found

    def answer(self, method: str, path: str = "", body: Any = None, **query: Any) -> tuple[int, Any]:
        asked = {"user": self.name, **query}
        reply = self._service.client.request(method, f"/chats{path}", params=asked, json=body)
        return reply.status_code, reply.json()

    def begin(self, prompt: str) -> str:
        return str(self.ask("POST", body={"prompt": prompt})["id"])

    def titles(self) -> list[str]:
        return [chat["title"] for chat in self.ask("GET")["chats"]]

    def texts(self, chat: str) -> list[str]:
        return [message["text"] for message in self.ask("GET", f"/{chat}")["messages"]]


@pytest.fixture
def ada(service: Service, request: pytest.FixtureRequest) -> Person:
    return Person(service, f"ada-{request.node.name}"[:100])


@pytest.fixture
def grace(service: Service, request: pytest.FixtureRequest) -> Person:
    return Person(service, f"grace-{request.node.name}"[:100])


def test_pages_hold_each_chat_once_and_nobody_elses(ada: Person, grace: Person) -> None:
    for number in range(12):
        ada.begin(f"Question {number}")
    grace.begin("Hers")

    first = ada.ask("GET")
    second = ada.ask("GET", cursor=first["next"])

    titles = [chat["title"] for page in (first, second) for chat in page["chats"]]
    assert titles == [f"Question {number}" for number in range(11, -1, -1)]
    assert (len(first["chats"]), second["next"]) == (10, None)
    assert grace.titles() == ["Hers"]
    # A cursor is of one list: that of another user.
    assert grace.answer("GET", cursor=first["next"])[0] == 422
    assert ada.answer("GET", cursor="x")[0] == 422


def test_an_outage(tmp_path: Path, nobodys_port: int) -> None:
    service = Service(EXAMPLE, f"mongodb://127.0.0.1:{nobodys_port}/shop?serverSelectionTimeoutMS=300", tmp_path)
    service.start()
    person = Person(service, "ada")
    asked = {"prompt": "Hello"}
    try:
        answers = [person.answer("GET"), person.answer("GET", "/x"), person.answer("POST", "", asked)]
        answers += [person.answer("POST", "/x/messages", asked), person.answer("POST", "/x/fork", {"message_id": 1})]
        answers += [person.answer("DELETE", "/x"), person.answer("DELETE")]
    finally:
        service.stop()
        service.client.close()

    assert {status for status, _ in answers} == {503}


def test_a_chat_of_somebody_else_does_not_exist(ada: Person, grace: Person) -> None:
    chat = ada.begin("A secret")

    for method, path, body in (
        ("GET", f"/{chat}", None),
        ("POST", f"/{chat}/messages", {"prompt": "Tell me"}),
        ("POST", f"/{chat}/fork", {"message_id": 1}),
        ("DELETE", f"/{chat}", None),
        ("GET", "/unknown", None),
    ):
        assert grace.answer(method, path, body) == (404, {"detail": "There is no such chat."})

    assert grace.ask("DELETE") == {"deleted": 0, "held": 0, "remaining": 0}
    assert ada.texts(chat) == ["A secret", "This is my answer to question 1."]


def test_a_fork_goes_its_own_way(ada: Person) -> None:
    chat = ada.begin("One")
    ada.ask("POST", f"/{chat}/messages", {"prompt": "Two"})

    after = ada.ask("POST", f"/{chat}/fork", {"message_id": 1})
    before = ada.ask("POST", f"/{chat}/fork", {"message_id": 2})
    ada.ask("POST", f"/{after['id']}/messages", {"prompt": "Otherwise"})

    assert ada.texts(chat)[::2] == ["One", "Two"]
    assert ada.texts(after["id"]) == [
        "One",
        "This is my answer to question 1.",
        "Otherwise",
        "This is my answer to question 2.",
    ]
    assert ada.texts(before["id"]) == ["One", "This is my answer to question 1."]
    assert {chat["forked_from"] for chat in ada.ask("GET")["chats"]} == {None, chat}
    assert ada.answer("POST", f"/{chat}/fork", {"message_id": 99})[0] == 422


def test_a_person_is_deleted_with_the_forks(ada: Person, grace: Person) -> None:
    chat, kept = ada.begin("One"), grace.begin("Hers")
    ada.ask("POST", f"/{chat}/fork", {"message_id": 1})

    assert ada.ask("DELETE", f"/{ada.begin('Two')}") == {"deleted": True, "messages": 2}
    assert ada.ask("DELETE") == {"deleted": 2, "held": 0, "remaining": 0}

    assert ada.titles() == []
    assert grace.texts(kept)[0] == "Hers"


def test_in_a_browser(service: Service, browser: Browser, ada: Person) -> None:
    for number in range(11):
        ada.begin(f"Question {number}")

    with browser.tab(f"http://127.0.0.1:{service.port}/?user={ada.name}") as tab:
        tab.wait_for(f"{CHATS}.length === 10 && !older.hidden")
        tab.run("older.click()")
        tab.wait_for(f"{CHATS}.length === 11 && older.hidden")

        tab.run("prompt.value = '<b>New</b>'; form.requestSubmit()")
        tab.wait_for(f"{SHOWN}.length === 2 && {CHATS}[0] === '<b>New</b>'")
        tab.run(f"{LAST_BUTTON}.click()")
        tab.wait_for(f"{CHATS}[0] === '↳ <b>New</b>'")
        tab.wait_for("document.querySelector('#chats [aria-current=true]').textContent.startsWith('↳')")
        tab.run("document.querySelector('#messages button').click()")
        assert tab.wait_for("prompt.value") == "<b>New</b>"
        assert tab.run(SHOWN) == []

        tab.run("document.getElementById('forget').click()")
        tab.wait_for(f"{CHATS}.length === 0")
        assert tab.run(NOTICE) == "14 chats are deleted."
