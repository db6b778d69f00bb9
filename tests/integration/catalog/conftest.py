"""A catalog on the counted client, and sessions to put before it."""

from collections.abc import Callable, Iterator

import pytest

from mongodb_session_manager import SessionCatalog
from tests.aliases import Client, Document
from tests.conftest import COLLECTION
from tests.integration.catalog.sessions import session
from tests.integration.stores.test_new_lives import Interruption


@pytest.fixture
def catalog(mongo_client: Client, database: str) -> Iterator[SessionCatalog]:
    with SessionCatalog(client=mongo_client, database_name=database) as made:
        yield made


@pytest.fixture
def put(observer: Client, database: str) -> Callable[..., None]:
    """Put sessions there, each given by its id or as a document."""

    def insert(*sessions: str | Document) -> None:
        documents = [session(each) if isinstance(each, str) else each for each in sessions]
        observer[database][COLLECTION].insert_many(documents)

    return insert


@pytest.fixture
def interruption() -> Interruption:
    return Interruption()


@pytest.fixture
def interrupted(mongodb_uri: str, database: str, interruption: Interruption) -> Iterator[SessionCatalog]:
    """A catalog whose commands can be interrupted."""
    with (
        Client(mongodb_uri, tz_aware=True, event_listeners=[interruption]) as client,
        SessionCatalog(client=client, database_name=database) as catalog,
    ):
        yield catalog
