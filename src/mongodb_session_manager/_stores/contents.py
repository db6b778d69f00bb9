"""What a session is known to hold."""

from collections.abc import Iterable

__all__ = ["SessionContents"]


class SessionContents:
    """What a session held when it was opened, and what this process has brought since.

    Others may have added to it meanwhile. What seems to be new here is therefore stored only where it is not there.

    Args:
        agent_ids: The agents that it surely holds; None where that was not recorded (the first version).
        is_new: Whether this process has created it.
    """

    def __init__(self, agent_ids: Iterable[str] | None, is_new: bool) -> None:
        self._is_recorded = agent_ids is not None
        self._agent_ids = set(agent_ids or ())
        self._is_new, self._multi_agent_ids = is_new, set[str]()

    @property
    def agent_ids(self) -> set[str]:
        """The agents that it surely holds, or is about to."""
        return self._agent_ids.copy()

    def add_agent(self, agent_id: str) -> None:
        self._agent_ids.add(agent_id)

    def seems_new_agent(self, agent_id: str) -> bool:
        """Tell whether it did not hold an agent."""
        return self._is_recorded and agent_id not in self._agent_ids

    def add_multi_agent(self, multi_agent_id: str) -> None:
        self._multi_agent_ids.add(multi_agent_id)

    def seems_new_multi_agent(self, multi_agent_id: str) -> bool:
        """Tell whether it surely did not hold a Graph or Swarm."""
        return self._is_new and multi_agent_id not in self._multi_agent_ids
