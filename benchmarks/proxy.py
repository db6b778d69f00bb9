"""A TCP proxy in a process of its own, which counts bytes and may hold them back."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from processes import CONTEXT

SENT, RECEIVED = 0, 1
HOST = "127.0.0.1"


@dataclass(frozen=True)
class Proxy:
    """A running proxy.

    Attributes:
        uri: Connects through it; directly, since a replica set tells its clients its own address.
    """

    uri: str
    _counts: Any

    def counts(self) -> tuple[int, int]:
        """Return the bytes sent to the server and received from it so far."""
        return self._counts[SENT], self._counts[RECEIVED]


@contextmanager
def running_proxy(server: tuple[str, int], delay: float = 0.0) -> Iterator[Proxy]:
    """Run a proxy that holds everything back for ``delay`` seconds, each way."""
    counts = CONTEXT.Array("q", 2)
    ours, theirs = CONTEXT.Pipe()
    process = CONTEXT.Process(target=_run, args=(server, delay, counts, theirs), daemon=True)
    process.start()
    try:
        yield Proxy(f"mongodb://{HOST}:{ours.recv()}/?directConnection=true", counts)
    finally:
        process.terminate()
        process.join()


def _run(server: tuple[str, int], delay: float, counts: Any, started: "Connection[int, Any]") -> None:
    asyncio.run(_serve(server, delay, counts, started))


async def _serve(server: tuple[str, int], delay: float, counts: Any, started: "Connection[int, Any]") -> None:
    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection(*server)
        await asyncio.gather(
            _pump(reader, to_server, delay, counts, SENT), _pump(from_server, writer, delay, counts, RECEIVED)
        )

    listening = await asyncio.start_server(connect, HOST, 0)
    started.send(listening.sockets[0].getsockname()[1])
    await listening.serve_forever()


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float, counts: Any, way: int
) -> None:
    held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
    delivering = asyncio.create_task(_deliver(held, writer))
    now = asyncio.get_running_loop().time
    try:
        while data := await reader.read(1 << 16):
            # Counted before they are sent on: who has the answer can read the count.
            counts[way] += len(data)
            held.put_nowait((now() + delay, data))
    except ConnectionError:
        pass
    held.put_nowait((now() + delay, b""))
    await delivering


async def _deliver(held: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
    now = asyncio.get_running_loop().time
    while True:
        due, data = await held.get()
        if (wait := due - now()) > 0:
            await asyncio.sleep(wait)
        if not data:
            return writer.close()
        writer.write(data)
