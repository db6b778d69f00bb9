"""A Chromium without a window, driven by its own protocol."""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from websockets.sync.client import ClientConnection, connect

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0"),
)


def find_chromium() -> str | None:
    """Return the one that ``CHROMIUM`` names, or that on ``PATH``."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


class Tab:
    """A page, with what a person does in it."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._calls = 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._calls += 1
        self._connection.send(json.dumps({"id": self._calls, "method": method, "params": parameters}))
        while (reply := json.loads(self._connection.recv(timeout=30))).get("id") != self._calls:
            self.events.append(reply)
        assert "error" not in reply, reply
        result: dict[str, Any] = reply["result"]
        return result

    def run(self, script: str) -> Any:
        """Run JavaScript in the page; its value, or that of its promise."""
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait_for(self, condition: str, seconds: float = 30) -> Any:
        """Wait until an expression is true; its value. While a page loads it may have none of its names."""
        deadline = time.monotonic() + seconds
        while not (value := self.run(f"(() => {{ try {{ return {condition} }} catch {{ return null }} }})()")):
            shown = self.run("document.body?.innerText")
            assert time.monotonic() < deadline, (condition, shown)
            time.sleep(0.05)
        return value

    def reload(self) -> None:
        """Load the page again, and wait until it is another document."""
        self._load("Page.reload")

    def visit(self, url: str) -> None:
        """Load another page, and wait for it."""
        self._load("Page.navigate", url=url)

    def _load(self, method: str, **parameters: Any) -> None:
        self.run("window.isOld = true")
        self.call(method, **parameters)
        self.wait_for("!window.isOld && document.readyState === 'complete'")


class Browser:
    """The running Chromium."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False)

    @contextmanager
    def tab(self, url: str) -> Iterator[Tab]:
        """Open a page; it is closed as a person closes a tab."""
        opened = self._http.put(f"/json/new?{quote(url, safe='')}").json()
        # A socket that is given goes through no proxy.
        direct = socket.create_connection(("127.0.0.1", self._port))
        with connect(opened["webSocketDebuggerUrl"], max_size=None, sock=direct) as connection:
            tab = Tab(connection)
            tab.wait_for("location.href !== 'about:blank' && document.readyState === 'complete'")
            try:
                yield tab
            finally:
                self._http.get(f"/json/close/{opened['id']}")

    def close(self) -> None:
        self._http.close()


@contextmanager
def browser_of_tests(config: pytest.Config, folder: Path) -> Iterator[Browser]:
    """Start the browser of these tests; where there is none they are skipped, or fail if they must not be."""
    chromium = find_chromium()
    if chromium is None:
        reason = "there is no Chromium: neither CHROMIUM nor PATH names one"
        if config.getoption("--require-browser"):  # what CI runs with
            raise RuntimeError(reason)
        pytest.skip(reason)
    with running_browser(chromium, folder) as running:
        yield running


@contextmanager
def running_browser(chromium: str, folder: Path) -> Iterator[Browser]:
    """Start it with an empty profile."""
    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen([chromium, *FLAGS, f"--user-data-dir={folder / 'profile'}"], stdout=log, stderr=log)
    try:
        with closing(Browser(_port(folder / "profile" / "DevToolsActivePort", process))) as browser:
            yield browser
    finally:
        process.terminate()
        process.wait(30)


def _port(file: Path, process: "subprocess.Popen[bytes]") -> int:
    deadline = time.monotonic() + 60
    while not (file.exists() and file.read_text()):
        assert process.poll() is None, "Chromium has ended"
        assert time.monotonic() < deadline, "Chromium does not answer"
        time.sleep(0.05)
    return int(file.read_text().split()[0])
