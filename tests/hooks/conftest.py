"""SNS, SQS and a WebSocket API on this machine (ministack), with a proxy in front that injects faults (microburst).

ministack pins botocore, so both live in an environment of their own, made once for each machine and Python.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
import venv
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import boto3  # type: ignore[import-untyped]
import pytest
from botocore.config import Config  # type: ignore[import-untyped]
from pymongo import MongoClient
from websockets.sync.client import ClientConnection, connect

from mongodb_session_manager import MongoDBSessionManager
from mongodb_session_manager.hooks.dispatcher import Dispatcher
from mongodb_session_manager.testing._watchdog import Watchdog

REQUIREMENTS = ("ministack==1.5.33", "microburst==0.10.0")
REGION = "eu-west-1"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": REGION,
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
_START_TIMEOUT = 60.0
# Answers a WebSocket client with the id of its connection.
_WHO_AM_I = (
    "def handler(event, context):\n    return {'statusCode': 200, 'body': event['requestContext']['connectionId']}\n"
)


@pytest.fixture(scope="session")
def emulator_python(pytestconfig: pytest.Config) -> Path:
    """The interpreter of an environment that holds the emulator and the proxy."""
    folder = _environment_folder()
    try:
        if not folder.exists():
            _make_environment(folder)
    except (OSError, subprocess.SubprocessError) as error:
        reason = f"no environment with {' and '.join(REQUIREMENTS)} could be made: {error}"
        if pytestconfig.getoption("--require-mongod"):  # what CI runs with
            raise RuntimeError(reason) from error
        pytest.skip(reason)
    return _python_of(folder)


def _environment_folder() -> Path:
    name = "-".join(["mongodb-session-manager-aws", str(os.getuid()), sys.implementation.cache_tag, *REQUIREMENTS])
    return Path(tempfile.gettempdir()) / name.replace("==", "-")


def _make_environment(folder: Path) -> None:
    """Make it under another name first: a run that is interrupted, or two at once, leave no half environment."""
    staging = Path(tempfile.mkdtemp(prefix="aws-environment-", dir=folder.parent))
    try:
        venv.create(staging, with_pip=True)
        install = [str(_python_of(staging)), "-m", "pip", "install", "-q", "--disable-pip-version-check", *REQUIREMENTS]
        subprocess.run(install, check=True, timeout=300)
        staging.rename(folder)
    except OSError:
        if not folder.exists():
            raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _python_of(folder: Path) -> Path:
    return folder / "bin" / "python"


class Emulator:
    """The emulator, as tests use it: ``url`` goes to it directly, ``faulty_url`` through the proxy."""

    def __init__(self, port: int, proxy_port: int) -> None:
        self.url, self.faulty_url = (f"http://127.0.0.1:{number}" for number in (port, proxy_port))
        self._port = port
        self._clients: dict[str, Any] = {}
        self._api: str | None = None

    def client(self, service: str) -> Any:
        if service not in self._clients:
            config = Config(retries={"mode": "standard"}, read_timeout=30)
            session = boto3.session.Session("testing", "testing", region_name=REGION)
            self._clients[service] = session.client(service, endpoint_url=self.url, config=config)
        return self._clients[service]

    def warm_up(self) -> None:
        """Call each service once: loading it may take the emulator or the proxy longer than hooks want to wait."""
        self.client("sns").publish(TopicArn=self.topic()[0], Message="x")
        session = boto3.session.Session("testing", "testing", region_name=REGION)
        slow = Config(read_timeout=60)
        session.client("sns", endpoint_url=self.faulty_url, config=slow).list_topics()
        session.client("sqs", endpoint_url=self.faulty_url, config=slow).list_queues()
        gateway = session.client("apigatewaymanagementapi", endpoint_url=self.websocket_endpoint, config=slow)
        with pytest.raises(gateway.exceptions.GoneException):
            gateway.post_to_connection(ConnectionId="nobody", Data=b"x")

    # Faults

    def fail(self, *rules: dict[str, Any]) -> None:
        """Have the proxy apply these rules from now on, and no others."""
        self._control("rules", "POST", rules)
        self._control("fired", "DELETE")

    def fired(self) -> list[dict[str, Any]]:
        """The faults that were injected."""
        found: list[dict[str, Any]] = self._control("fired", "GET")
        return found

    def _control(self, path: str, method: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            f"{self.faulty_url}/_microburst/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            text = response.read()
        return json.loads(text) if text else None

    # SNS and SQS

    def queue(self, fifo: bool = False) -> str:
        """A new queue; its URL goes through the proxy."""
        attributes = {"FifoQueue": "true"} if fifo else {}
        name = uuid.uuid4().hex + (".fifo" if fifo else "")
        url = str(self.client("sqs").create_queue(QueueName=name, Attributes=attributes)["QueueUrl"])
        return url.replace(self.url, self.faulty_url)

    def topic(self) -> tuple[str, str]:
        """A new topic and a queue that gets what is published there."""
        arn = self.client("sns").create_topic(Name=uuid.uuid4().hex)["TopicArn"]
        queue = self.queue()
        wanted = {"QueueUrl": self.direct(queue), "AttributeNames": ["QueueArn"]}
        queue_arn = self.client("sqs").get_queue_attributes(**wanted)["Attributes"]["QueueArn"]
        self.client("sns").subscribe(TopicArn=arn, Protocol="sqs", Endpoint=queue_arn)
        return arn, queue

    def received(self, queue: str, count: int | None = None) -> list[dict[str, Any]]:
        """What is in a queue, in order; with ``count`` waits for so many."""
        found: list[dict[str, Any]] = []
        deadline = time.monotonic() + 15
        while True:
            batch = self.client("sqs").receive_message(
                QueueUrl=self.direct(queue),
                MaxNumberOfMessages=10,
                MessageAttributeNames=["All"],
                AttributeNames=["All"],
            )
            messages = batch.get("Messages", [])
            found += messages
            if messages:
                entries = [{"Id": str(i), "ReceiptHandle": m["ReceiptHandle"]} for i, m in enumerate(messages)]
                self.client("sqs").delete_message_batch(QueueUrl=self.direct(queue), Entries=entries)
            elif count is None or len(found) >= count or time.monotonic() > deadline:
                return found

    def events(self, queue: str, count: int | None = None) -> list[dict[str, Any]]:
        """The JSON bodies in a queue."""
        return [json.loads(message["Body"]) for message in self.received(queue, count)]

    def direct(self, url: str) -> str:
        """The same queue, without the proxy."""
        return url.replace(self.faulty_url, self.url)

    # WebSocket

    @contextmanager
    def browser(self) -> Iterator[tuple[ClientConnection, str]]:
        """A WebSocket client and the id of its connection."""
        address = f"ws://127.0.0.1:{self._port}/_aws/execute-api/{self._websocket_api()}/prod"
        with connect(address) as client:
            client.send("who am I?")
            yield client, str(client.recv(timeout=20))

    @property
    def websocket_endpoint(self) -> str:
        """Where messages to connections are posted, through the proxy."""
        return f"{self.faulty_url}/_aws/execute-api/{self._websocket_api()}/prod"

    def _websocket_api(self) -> str:
        if self._api is None:
            self._api = self._make_websocket_api()
        return self._api

    def _make_websocket_api(self) -> str:
        archive = BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("who.py", _WHO_AM_I)
        function = self.client("lambda").create_function(
            FunctionName="who",
            Runtime="python3.12",
            Role="arn:aws:iam::000000000000:role/any",
            Handler="who.handler",
            Code={"ZipFile": archive.getvalue()},
        )["FunctionArn"]
        gateway = self.client("apigatewayv2")
        expression = "$request.body.action"
        api = gateway.create_api(Name="ws", ProtocolType="WEBSOCKET", RouteSelectionExpression=expression)["ApiId"]
        uri = f"arn:aws:apigateway:{REGION}:lambda:path/2015-03-31/functions/{function}/invocations"
        integration = gateway.create_integration(ApiId=api, IntegrationType="AWS_PROXY", IntegrationUri=uri)
        for route in ("$connect", "$disconnect", "$default"):
            gateway.create_route(ApiId=api, RouteKey=route, Target=f"integrations/{integration['IntegrationId']}")
        gateway.create_stage(ApiId=api, StageName="prod", AutoDeploy=True)
        return str(api)


@pytest.fixture(scope="session")
def emulator(emulator_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """The emulator and the proxy, running until the tests end."""
    logs = tmp_path_factory.mktemp("aws")
    port, proxy_port = _free_ports(2)
    with ExitStack() as stack:
        environment = {**os.environ, **CREDENTIALS, "GATEWAY_PORT": str(port), "BIND_HOST": "127.0.0.1"}
        upstream = ["--upstream", f"http://127.0.0.1:{port}", "--port", str(proxy_port)]
        for name, options in (("ministack", []), ("microburst", upstream)):
            words = [str(emulator_python), "-m", name, *options]
            stack.enter_context(_running(words, environment, logs / f"{name}.log"))
        _await(f"http://127.0.0.1:{port}/_ministack/health")
        _await(f"http://127.0.0.1:{proxy_port}/_microburst/health")
        emulator = Emulator(port, proxy_port)
        emulator.warm_up()
        yield emulator


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(closing(socket.create_server(("127.0.0.1", 0)))) for _ in range(count)]
        return [number.getsockname()[1] for number in sockets]


@contextmanager
def _running(words: list[str], environment: dict[str, str], log: Path) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(words, env=environment, cwd=log.parent, stdout=output, stderr=output)
    watchdog = Watchdog(process.pid)
    try:
        yield
    finally:
        process.kill()  # it has nothing to save
        process.wait()
        watchdog.dismiss()


def _await(url: str) -> None:
    deadline = time.monotonic() + _START_TIMEOUT
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@pytest.fixture
def aws(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """The emulator without any fault, and the credentials for it."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    emulator.fail()
    yield emulator
    emulator.fail()


@pytest.fixture
def new_manager(
    mongo_client: MongoClient[dict[str, Any]], database_name: str
) -> Iterator[Callable[..., MongoDBSessionManager]]:
    """Make managers in the test's database; closed in the end."""
    with ExitStack() as stack:

        def make(session_id: str = "s-1", **options: Any) -> MongoDBSessionManager:
            manager = MongoDBSessionManager(session_id, client=mongo_client, database_name=database_name, **options)
            return stack.enter_context(closing(manager))

        yield make


@pytest.fixture
def outbox(mongo_client: MongoClient[dict[str, Any]], database_name: str) -> Callable[..., list[dict[str, Any]]]:
    """Read what is recorded in a session and not acknowledged."""

    def read(session_id: str = "s-1") -> list[dict[str, Any]]:
        stored = mongo_client[database_name]["agent_sessions"].find_one({"_id": session_id}) or {}
        return list(stored.get("outbox", []))

    return read


@pytest.fixture
def impatient() -> Callable[[Any], Any]:
    """Give a hook a dispatcher of its own, which makes its further attempts soon."""

    def change(hook: Any) -> Any:
        hook._dispatcher = Dispatcher(retry_delays=(0.05, 0.05, 0.1, 0.1, 0.2, 0.2))
        return hook

    return change


@pytest.fixture
def run_child(aws: Emulator, mongodb_uri: str, database_name: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a script to its end; it finds ``URI``, ``DATABASE`` and what else is given as its variables."""

    def run(script: str, **variables: Any) -> subprocess.CompletedProcess[str]:
        head = "".join(
            f"{name} = {value!r}\n"
            for name, value in {"URI": mongodb_uri, "DATABASE": database_name, **variables}.items()
        )
        return subprocess.run([sys.executable, "-c", head + script], capture_output=True, text=True, timeout=60)

    return run
