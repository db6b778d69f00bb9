"""The stores of one catalog."""

from functools import cached_property

from .._schema.catalog_filter import scope_of
from .catalog_checks import CatalogChecks
from .catalog_indexes import CatalogIndexes
from .deleting import DeletionStore
from .deleting_many import ManyDeletions
from .feedback_lists import FeedbackLists
from .forks import ForkStore
from .lifetimes import LifetimeStore
from .operation import ClientUse, Collections, open_collections
from .reading import CatalogReads, ReadSettings
from .session_lists import SessionLists
from .sweeping import Sweeper
from .text_search import TextSearch
from .transcripts import Transcripts
from .usage import UsageReports

__all__ = ["CatalogStores"]


class CatalogStores:
    """The stores of one catalog.

    Args:
        use: Of the client.
        collections: The collections, for writes.
        reads: The collections, for reads within a scope.

    Attributes:
        handle: The client with the worker threads that belong to it.
    """

    def __init__(self, use: ClientUse, collections: Collections, reads: CatalogReads) -> None:
        self.use, self.handle, self.collections, self.reads = use, use.handle, collections, reads

    @classmethod
    def open(
        cls, use: ClientUse, database_name: str | None, collection_name: str | None, settings: ReadSettings
    ) -> "CatalogStores":
        """Return the stores of a namespace, without a scope.

        Raises:
            TypeError: The client is a mongomock client.
        """
        collections = open_collections(use.handle, database_name, collection_name)
        if not collections.can_compute:
            raise TypeError(
                "A SessionCatalog needs a pymongo.MongoClient: other clients, such as mongomock's, do not run its "
                "aggregations."
            )
        return cls(use, collections, CatalogReads.of(collections, settings))

    @property
    def namespace(self) -> str:
        """Database and collection of the sessions."""
        return self.collections.sessions.full_name

    def within(self, given: object) -> "CatalogStores":
        """Return stores that read only the sessions for which a filter holds."""
        return CatalogStores(self.use, self.collections, self.reads.within(scope_of(given)))

    @cached_property
    def lists(self) -> SessionLists:
        """Lists of sessions, their number, and one of them."""
        return SessionLists(self.reads, TextSearch(self.reads))

    @cached_property
    def transcripts(self) -> Transcripts:
        """Pages of histories, and content blocks."""
        return Transcripts(self.reads)

    @cached_property
    def feedback(self) -> FeedbackLists:
        """Feedback."""
        return FeedbackLists(self.reads)

    @cached_property
    def reports(self) -> UsageReports:
        """The usage of models."""
        return UsageReports(self.reads)

    @cached_property
    def checks(self) -> CatalogChecks:
        """Checks, and bringing sessions up to date."""
        return CatalogChecks(self.collections, self.reads)

    @cached_property
    def indexes(self) -> CatalogIndexes:
        """Indexes."""
        return CatalogIndexes(self.collections)

    @cached_property
    def deletions(self) -> DeletionStore:
        """Deletions of single sessions."""
        return DeletionStore(self.collections, self.reads.max_time_ms)

    @cached_property
    def many_deletions(self) -> ManyDeletions:
        """Deletions of all sessions for which a filter holds."""
        return ManyDeletions(self.collections, self.reads.max_time_ms)

    @cached_property
    def lifetimes(self) -> LifetimeStore:
        """Holds, and changes of ttls."""
        return LifetimeStore(self.collections)

    @cached_property
    def forks(self) -> ForkStore:
        """Forks."""
        return ForkStore(self.collections)

    @cached_property
    def sweeper(self) -> Sweeper:
        """Sweeps."""
        return Sweeper(self.collections)
