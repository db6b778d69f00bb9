"""What answers like SQS, after a while or never, in a process of its own."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from processes import CONTEXT

HOST = "127.0.0.1"
BODY = b'{"MessageId": "1", "MD5OfMessageBody": ""}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY


@contextmanager
def running_sqs(delay: float | None) -> Iterator[str]:
    """Give the URL of a queue that answers after ``delay`` seconds; never, where that is None."""
    ours, theirs = CONTEXT.Pipe()
    process = CONTEXT.Process(target=_run, args=(delay, theirs), daemon=True)
    process.start()
    try:
        yield f"http://{HOST}:{ours.recv()}/000000000000/changes"
    finally:
        process.terminate()
        process.join()


def _run(delay: float | None, started: "Connection[int, Any]") -> None:
    asyncio.run(_serve(delay, started))


async def _serve(delay: float | None, started: "Connection[int, Any]") -> None:
    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await _read_request(reader)
                await asyncio.sleep(3600 if delay is None else delay)
                writer.write(ANSWER)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    listening = await asyncio.start_server(connect, HOST, 0)
    started.send(listening.sockets[0].getsockname()[1])
    await listening.serve_forever()


async def _read_request(reader: asyncio.StreamReader) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
    await reader.readexactly(int(length or 0))
