"""The SDK's expectations of a session repository, as a pytest suite that any repository can inherit."""

from .agents import AgentContract
from .messages import MessageContract
from .multi_agents import MultiAgentContract
from .sessions import SessionContract

__all__ = ["SessionRepositoryContract"]


class SessionRepositoryContract(SessionContract, AgentContract, MessageContract, MultiAgentContract):
    """Tests of a ``strands.session.SessionRepository``; the SDK's ``FileSessionManager`` passes them all.

    Inherit from it in a class whose name begins with ``Test`` and give it a fixture named ``repository``.
    Every test uses a session id of its own, so the repository may be shared and need not be empty.

    Example:
        class TestMyRepository(SessionRepositoryContract):
            @pytest.fixture
            def repository(self) -> MyRepository:
                return MyRepository()
    """
