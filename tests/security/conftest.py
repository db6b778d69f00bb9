"""A witness of all that is told while secrets go through, and a server that lets nobody in without credentials."""

import base64
import datetime
import ipaddress
import logging
import secrets
import stat
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pytest
from bson import ObjectId
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pymongo import MongoClient

from mongodb_session_manager.testing import Mongod, MongodNotFoundError

NewUser = Callable[[Mapping[str, Iterable[str]]], dict[str, Any]]

OURS = "mongodb_session_manager"
# asyncio tells of exceptions that nobody asked for, and the interpreter of those that nobody could raise.
HEARD = (OURS, "asyncio", "root", "py.warnings", "concurrent.futures")


class Witness:
    """Hands out secrets, and notes everything in which they must not be."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.errors: list[BaseException] = []
        self.records: list[logging.LogRecord] = []
        self._secrets: dict[str, str] = {}

    def secret(self, kind: str) -> str:
        """Return the secret of a kind: letters and digits, which no spelling or escaping changes."""
        return self._secrets.setdefault(kind, f"x{secrets.token_hex(12)}")

    def keep(self, kind: str, secret: str) -> None:
        """Note a secret that was made elsewhere."""
        self._secrets[kind] = secret

    def hear(self, *values: object) -> None:
        """Note what was returned, and how it represents itself."""
        self.told += [f"{value!s} {value!r}" for value in values]

    def hear_error(self, error: BaseException) -> None:
        """Note an error as it would be printed, with its notes and causes, and what it holds besides."""
        self.errors.append(error)
        self.told.append("".join(traceback.format_exception(error)))
        for one in chain(error):
            notes = getattr(one, "__notes__", ())
            self.told.append(f"{one!s} {one!r} {one.args!r} {notes!r} {getattr(one, 'details', None)!r}")

    @contextmanager
    def error(self, kind: type[BaseException] | tuple[type[BaseException], ...]) -> Iterator[None]:
        """Expect an error, and note it."""
        with pytest.raises(kind) as caught:
            yield
        self.hear_error(caught.value)

    def hear_record(self, record: logging.LogRecord) -> None:
        """Note a record with its arguments and its traceback."""
        self.records.append(record)
        self.told.append(f"{record.getMessage()} {record.msg!r} {record.args!r} {record.stack_info}")
        if record.exc_info and record.exc_info[1]:
            self.hear_error(record.exc_info[1])

    def leaks(self) -> list[str]:
        """Return the kinds of secrets that were told, with a place each."""
        found = {kind: [text for text in self.told if secret in text] for kind, secret in self._secrets.items()}
        return [f"{kind}: {texts[0][:2000]}" for kind, texts in found.items() if texts]


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error and all behind it, also those that are not printed."""
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop()
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [other for other in (one.__cause__, one.__context__) if other is not None]
            waiting += getattr(one, "exceptions", ())


class _Listening(logging.Handler):
    def __init__(self, hear: Callable[[logging.LogRecord], None]) -> None:
        super().__init__(logging.DEBUG)
        self._hear = hear

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.split(".")[0] in HEARD or record.name in HEARD:
            self._hear(record)


@pytest.fixture
def witness() -> Iterator[Witness]:
    """A witness of the whole test, with the root logger at DEBUG; in the end nothing secret may have been told."""
    witness, root = Witness(), logging.getLogger()
    listening, level = _Listening(witness.hear_record), root.level
    pymongos = logging.getLogger("pymongo")  # at DEBUG it prints commands, which is its user's own choice
    root.addHandler(listening)
    root.setLevel(logging.DEBUG)
    pymongos.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            yield witness
    finally:
        root.removeHandler(listening)
        root.setLevel(level)
        pymongos.setLevel(logging.NOTSET)
    witness.hear(*[warning.message for warning in warned])
    assert witness.leaks() == []


# A server with TLS and users


class Authority:
    """A certificate authority of our own.

    Args:
        folder: Where certificates are put.
        name: Tells its files from another one's.
    """

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder, self._key = folder, ec.generate_private_key(ec.SECP256R1())
        self._name = subject(common_name=name)
        self.path = folder / f"{name}.pem"
        self.path.write_bytes(self._certificate(self._name, self._key.public_key(), authority=True))

    def issue(self, name: str, password: str | None = None) -> Path:
        """Make a certificate with its key, in one file, for servers on this machine and for clients."""
        key = ec.generate_private_key(ec.SECP256R1())
        encryption: Any = serialization.NoEncryption()
        if password is not None:
            encryption = serialization.BestAvailableEncryption(password.encode())
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
        path = self._folder / f"{name}.pem"
        path.write_bytes(
            key.private_bytes(*form, encryption) + self._certificate(subject(common_name=name), key.public_key())
        )
        return path

    def _certificate(self, name: x509.Name, key: Any, *, authority: bool = False) -> bytes:
        now = datetime.datetime.now(datetime.timezone.utc)
        hosts = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
        uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = (
            x509.CertificateBuilder(issuer_name=self._name, subject_name=name, public_key=key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if authority:
            certificate = certificate.add_extension(SIGNING, critical=True)
        else:
            certificate = certificate.add_extension(x509.SubjectAlternativeName(hosts), critical=False)
            certificate = certificate.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        return certificate.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


SIGNING = x509.KeyUsage(
    key_cert_sign=True,
    crl_sign=True,
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    encipher_only=False,
    decipher_only=False,
)


def subject(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, f"of {common_name}"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


class SecuredServer:
    """A one-node replica set that takes connections with TLS from users only.

    Attributes:
        authority: Signs the certificates that the server trusts, and its own.
        password: Of the users ``root`` and ``app``; ``app`` may read and write one database.
        database: That database.
        certificate: Of the user that is known by it.
        sealed_certificate: The same user's; its key can be read with the password.
    """

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.password, self.database = f"p@ss:/%{secrets.token_hex(12)}", "chats"
        self.certificate = self.authority.issue("app")
        self.sealed_certificate = self.authority.issue("sealed", self.password)
        self._make_users(folder)
        self._mongod = Mongod(
            folder / "data",
            arguments=self._arguments(folder),
            client_options={**self.tls, "username": "root", "password": self.password},
        )

    @property
    def tls(self) -> dict[str, Any]:
        """What every client needs."""
        return {"tls": True, "tlsCAFile": str(self.authority.path)}

    @property
    def uri(self) -> str:
        """The server without any credentials."""
        return self._mongod.uri

    def uri_of(self, user: str, password: str | None = None) -> str:
        """Return a connection string for a user with a password, with everything in it."""
        secret = quote_plus(password or self.password)
        return f"{self.uri.replace('//', f'//{user}:{secret}@')}&tls=true&tlsCAFile={self.authority.path}"

    def root(self) -> MongoClient[dict[str, Any]]:
        """Return a client that may do everything."""
        return MongoClient(self.uri, tz_aware=True, username="root", password=self.password, **self.tls)

    def start(self) -> None:
        self._mongod.start()

    def stop(self) -> None:
        self._mongod.stop()

    def _arguments(self, folder: Path) -> list[str]:
        key_file = folder / "key"
        key_file.write_bytes(base64.b64encode(secrets.token_bytes(96)))
        key_file.chmod(stat.S_IRUSR)
        return [
            *("--keyFile", str(key_file)),
            *("--tlsMode", "requireTLS"),
            *("--tlsCertificateKeyFile", str(self.authority.issue("server"))),
            *("--tlsCAFile", str(self.authority.path)),
            "--tlsAllowConnectionsWithoutCertificates",
        ]

    def _make_users(self, folder: Path) -> None:
        with Mongod(folder / "data") as open_to_all, MongoClient[dict[str, Any]](open_to_all.uri) as client:
            may_write = [{"role": "readWrite", "db": self.database}]
            client.admin.command("createUser", "root", pwd=self.password, roles=["root"])
            client.admin.command("createUser", "app", pwd=self.password, roles=may_write)
            for name in ("app", "sealed"):
                client["$external"].command("createUser", subject(name).rfc4514_string(), roles=may_write)


@pytest.fixture(scope="session")
def secured(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredServer]:
    """A server with TLS and users; a private one also where ``MONGODB_URI`` names another."""
    try:
        server = SecuredServer(tmp_path_factory.mktemp("secured"))
    except MongodNotFoundError as error:
        if pytestconfig.getoption("--require-mongod"):
            raise
        pytest.skip(str(error))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def secured_database(secured: SecuredServer) -> Iterator[str]:
    """A database of this server; it goes with its users and roles."""
    name = f"test_{ObjectId()}"
    yield name
    with secured.root() as root:
        for user in root[name].command("usersInfo")["users"]:
            root[name].command("dropUser", user["user"])
        root[name].command("dropAllRolesFromDatabase")
        root.drop_database(name)


@pytest.fixture
def new_user(secured: SecuredServer, secured_database: str) -> NewUser:
    """Make a user with these actions on these collections, and return what a client needs to be that user."""

    def make(actions: Mapping[str, Iterable[str]]) -> dict[str, Any]:
        name, password = f"user_{ObjectId()}", secrets.token_hex(12)
        privileges = [
            {"resource": {"db": secured_database, "collection": collection}, "actions": [*allowed]}
            for collection, allowed in actions.items()
            if allowed
        ]
        with secured.root() as root:
            root[secured_database].command("createRole", name, privileges=privileges, roles=[])
            root[secured_database].command("createUser", name, pwd=password, roles=[name])
        return {**secured.tls, "username": name, "password": password, "authSource": secured_database}

    return make
