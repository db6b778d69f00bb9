"""An example of a service, as it runs."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from pymongo import MongoClient

EXAMPLES = Path(__file__).parents[2] / "examples"


class Service:
    """An example in a process of its own, on a free port of this machine."""

    def __init__(self, name: str, uri: str, folder: Path, *options: str) -> None:
        self._name, self.uri, self._folder, self._options = name, uri, folder, options
        self._process: subprocess.Popen[bytes] | None = None
        self.log = folder / "log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        # A connection that is kept open may be closed by the server just when it is used again.
        fresh = httpx.Limits(max_keepalive_connections=0)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30, trust_env=False, limits=fresh)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, EXAMPLES / self._name, "--port", str(self.port), *self._options],
                cwd=self._folder,
                env={**os.environ, "MONGODB_URI": self.uri},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + 60
        while not self._listens():
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End it as a process manager does, and wait; its exit code."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(how)
        try:
            return process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def chat(self, session_id: str, prompt: str, **options: Any) -> httpx.Response:
        return self.client.post(f"/sessions/{session_id}/chat", json={"prompt": prompt, **options})

    def stored(self, session_id: str) -> dict[str, Any] | None:
        with MongoClient[dict[str, Any]](self.uri) as client:
            return client.get_default_database()["agent_sessions"].find_one({"_id": session_id})

    def texts(self, session_id: str) -> list[str]:
        reply = self.client.get(f"/sessions/{session_id}/history")
        assert reply.status_code == 200
        return [block["text"] for message in reply.json() for block in message["content"]]

    def stream(self, session_id: str, **options: Any) -> Iterator[tuple[str, Any]]:
        """Give the events of an answer as they come."""
        with self.client.stream("POST", f"/sessions/{session_id}/chat", json={"prompt": "Hello", **options}) as reply:
            assert reply.headers["content-type"].startswith("text/event-stream")
            event = ""
            for line in reply.iter_lines():
                name, _, value = line.partition(": ")
                if name == "event":
                    event = value
                elif name == "data":
                    yield event, json.loads(value)
