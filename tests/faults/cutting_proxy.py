"""A TCP proxy that loses the server's replies: the command arrives, and nobody is told."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

HOST = "127.0.0.1"

_LENGTH = 4
# Of a message's header, flags, section kind, the length of its document and the type of the first field,
# whose name is the command.
_COMMAND = 16 + 4 + 1 + 4 + 1


class CuttingProxy:
    """Passes everything on, until it is told to cut connections in the place of replies.

    Attributes:
        port: Where it listens.
    """

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self._commands: tuple[bytes, ...] = ()
        self._left = 0
        self._open: set[asyncio.Task[Any]] = set()
        self.cuts = 0
        self.port = 0

    @property
    def uri(self) -> str:
        """Connects through it; directly, since a replica set tells its clients its own address."""
        return f"mongodb://{HOST}:{self.port}/?directConnection=true"

    @contextmanager
    def cutting(self, *commands: str, times: int = 1_000_000) -> Iterator[None]:
        """Cut the connection when a reply to one of the commands comes, for the time of a ``with``."""
        self._commands, self._left, self.cuts = tuple(command.encode() + b"\0" for command in commands), times, 0
        try:
            yield
        finally:
            self._left = 0

    async def serve(self, started: "Future[Callable[[], object]]") -> None:
        """Listen until the function that is handed over is called."""
        loop, stopped = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connect, HOST, 0)
        self.port = server.sockets[0].getsockname()[1]
        started.set_result(lambda: loop.call_soon_threadsafe(stopped.set))
        await stopped.wait()
        server.close()
        while self._open:
            for connection in self._open:  # one that was just accepted comes after the others
                connection.cancel()
            await asyncio.sleep(0.001)
        await asyncio.sleep(0)  # the transports that were aborted close in the next turn of the loop

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        this = asyncio.current_task()
        assert this is not None
        self._open.add(this)
        this.add_done_callback(self._open.discard)
        try:
            from_server, to_server = await asyncio.open_connection(*self._server)
            doomed = asyncio.Event()
            forward, answer = self._forward(reader, to_server, doomed), _answer(from_server, writer, doomed)
            try:
                await _until_one_ends(forward, answer)
            finally:
                to_server.transport.abort()
        finally:
            writer.transport.abort()

    async def _forward(
        self, reader: asyncio.StreamReader, to_server: asyncio.StreamWriter, doomed: asyncio.Event
    ) -> None:
        while True:
            message = await _read_message(reader)
            if self._left and message[_COMMAND:].startswith(self._commands):
                self._left -= 1
                self.cuts += 1
                doomed.set()
            to_server.write(message)


async def _until_one_ends(*works: Coroutine[Any, Any, None]) -> None:
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _answer(from_server: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: asyncio.Event) -> None:
    while True:
        message = await _read_message(from_server)
        if doomed.is_set():
            return
        writer.write(message)


async def _read_message(reader: asyncio.StreamReader) -> bytes:
    length = await reader.readexactly(_LENGTH)
    return length + await reader.readexactly(int.from_bytes(length, "little") - _LENGTH)


@contextmanager
def running_proxy(server: tuple[str, int]) -> Iterator[CuttingProxy]:
    """Run a proxy on a thread of its own."""
    proxy = CuttingProxy(server)
    started: Future[Callable[[], object]] = Future()
    thread = threading.Thread(target=lambda: asyncio.run(proxy.serve(started)))
    thread.start()
    stop = started.result(10)
    try:
        yield proxy
    finally:
        stop()
        thread.join()
