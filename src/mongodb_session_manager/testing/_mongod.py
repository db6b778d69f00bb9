"""A private one-node replica set for tests and for trying things out."""

import atexit
import os
import secrets
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from ._binary import MongodNotFoundError, find_mongod
from ._mongod_process import HOST, MongodProcess, PortTakenError
from ._replica_set import REPLICA_SET, ensure_configured, is_primary
from ._temporary import TemporaryFolder

__all__ = ["Mongod", "connected", "running_mongodb"]

_PORT_ATTEMPTS = 5

# Below the ephemeral ranges of Linux and macOS: inside them, a client that reconnects while the server is down can
# connect to itself, and an outgoing connection of another process can hold the port when the server comes back.
_PORTS = range(20_000, 32_000)


class Mongod:
    """A private mongod: a one-node replica set that only this machine can reach.

    Use it as a context manager, or call ``start`` and ``stop``. It is stopped when the process ends, however
    that happens. A data folder that was given is kept and can be used again, on any port, by one mongod at a
    time; the log is in it (``mongod.log``). Without one a temporary folder is used, which goes when the server
    stops, or when the process ends; on POSIX systems also if it is killed.

    Args:
        data_path: Folder for the data; made when it does not exist.
        binary: The mongod to run; found by ``find_mongod`` when not given.
        port: Port to listen on; 0 chooses a free one, which then stays the same for this object.
        parameters: Server parameters, as for ``--setParameter``; for example ``{"enableTestCommands": "1"}``,
            which switches fail points on.
        arguments: Further arguments of the command line; for example ``["--tlsMode", "requireTLS", …]``.
        client_options: Options with which ``MongoClient`` reaches a server with such arguments; with ``--keyFile`` a
            user who may configure the replica set.

    Raises:
        MongodNotFoundError: When there is no mongod to run.
    """

    def __init__(
        self,
        data_path: Path | None = None,
        *,
        binary: Path | None = None,
        port: int = 0,
        parameters: Mapping[str, str] = {},
        arguments: Sequence[str] = (),
        client_options: Mapping[str, Any] = {},
    ) -> None:
        found = binary or find_mongod()
        if found is None:
            raise MongodNotFoundError
        self._binary = found
        self._given_path = data_path
        self._path: Path | None = None
        self._temporary: TemporaryFolder | None = None
        self._port = port
        self._parameters = dict(parameters)
        self._arguments, self._client_options = tuple(arguments), dict(client_options)
        self._process: MongodProcess | None = None
        self._owner = 0

    def __enter__(self) -> "Mongod":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def uri(self) -> str:
        """Connection string of the replica set; ``restart`` does not change it."""
        return f"mongodb://{HOST}:{self.port}/?replicaSet={REPLICA_SET}"

    @property
    def port(self) -> int:
        """The port that the server listens on."""
        if not self._port:
            raise RuntimeError("mongod has no port yet: call start() first")
        return self._port

    @property
    def data_path(self) -> Path:
        """The folder that holds the data and the log."""
        if self._path is None:
            raise RuntimeError("mongod is not started: call start() first")
        return self._path

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        return self._running().pid

    def start(self) -> None:
        """Start the server and wait until it takes writes; does nothing when it was started already.

        Raises:
            MongodStartError: When mongod ends or does not become primary in time.
        """
        if self._path is not None:
            return
        self._owner = os.getpid()
        atexit.register(self.stop)
        self._path = self._make_folder()
        try:
            self._serve()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server; a temporary data folder is deleted."""
        # A forked child inherits this object and its exit handler, but the server is the parent's.
        if self._owner != os.getpid():
            return
        atexit.unregister(self.stop)
        # A temporary folder is deleted, so the server need not end cleanly.
        self._end_process(cleanly=self._given_path is not None)
        if self._temporary is not None:
            self._temporary.remove()
        self._path = self._temporary = None

    def restart(self) -> None:
        """Shut the server down, unless it was killed already; start it with the same data and port."""
        self._end_process(cleanly=True)
        self._serve_on(self.port)

    def kill(self) -> None:
        """End the server at once (SIGKILL), as a crash would; ``restart`` brings it back with its data."""
        self._running()
        self._end_process(cleanly=False)

    def pause(self) -> None:
        """Freeze the server (SIGSTOP): connections stay open, and it does not answer once this returns."""
        self._running().freeze()
        self._running()  # or it ended meanwhile

    def resume(self) -> None:
        """Let a frozen server go on (SIGCONT)."""
        self._running().thaw()

    def _running(self) -> MongodProcess:
        if self._process is None or not self._process.is_running():
            raise RuntimeError("mongod is not running")
        return self._process

    def _end_process(self, *, cleanly: bool) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.end(cleanly=cleanly)

    def _make_folder(self) -> Path:
        if self._given_path is None:
            self._temporary = TemporaryFolder()
            return self._temporary.path
        folder = Path(self._given_path).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _serve(self) -> None:
        if self._port:
            return self._serve_on(self._port)
        # Another process may take the port between choosing it and listening on it.
        for _ in range(_PORT_ATTEMPTS - 1):
            try:
                return self._serve_on(_free_port())
            except PortTakenError:
                continue
        return self._serve_on(_free_port())

    def _serve_on(self, port: int) -> None:
        self._process = MongodProcess(
            self._binary,
            self.data_path,
            port,
            self._parameters,
            self._arguments,
            is_temporary=self._temporary is not None,
        )
        try:
            self._wait_until_ready(self._process, port)
        except BaseException:
            self._end_process(cleanly=False)
            raise
        self._port = port

    def _wait_until_ready(self, process: MongodProcess, port: int) -> None:
        with connected(process, port, self._client_options) as client:
            ensure_configured(client, f"{HOST}:{port}")
            process.wait_until(lambda: is_primary(client))


@contextmanager
def running_mongodb(data_path: Path | None = None, *, parameters: Mapping[str, str] = {}) -> Iterator[str]:
    """Give the connection string of a MongoDB: ``MONGODB_URI`` if it is set and not empty, else a private mongod's.

    Args:
        data_path: Data folder of the private mongod; see ``Mongod``.
        parameters: Server parameters of the private mongod; see ``Mongod``.

    Yields:
        The connection string.

    Raises:
        MongodNotFoundError: When the variable is not set and there is no mongod to run.
    """
    if uri := os.environ.get("MONGODB_URI", "").strip():
        yield uri
        return
    with Mongod(data_path, parameters=parameters) as mongod:
        yield mongod.uri


def _free_port() -> int:
    while True:
        port = _PORTS[secrets.randbelow(len(_PORTS))]
        if not _listens(port):
            return port


@contextmanager
def connected(
    process: MongodProcess, port: int, options: Mapping[str, Any] = {}
) -> Iterator[MongoClient[dict[str, Any]]]:
    """Give a client of a server that was just started, as soon as it answers."""
    # A raw socket first, because a MongoClient whose first connection is refused waits for half a second.
    process.wait_until(lambda: _listens(port))
    with MongoClient[dict[str, Any]](
        HOST, port, directConnection=True, serverSelectionTimeoutMS=2_000, socketTimeoutMS=20_000, **options
    ) as client:
        process.wait_until(lambda: _answers(client, process.pid))
        yield client


def _listens(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def _answers(client: MongoClient[dict[str, Any]], pid: int) -> bool:
    # A server of another process may hold the port and answer; then ours is about to end.
    try:
        return bool(client.admin.command("serverStatus")["pid"] == pid)
    except PyMongoError:
        return False
