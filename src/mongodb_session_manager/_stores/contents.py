"""The known content of a session."""

from collections.abc import Iterable

__all__ = ["SessionContents"]


class SessionContents:
    """The agents, Graphs and Swarms that a session held when it was opened, and those that this process has added.

    Other processes may have added more. So an agent that seems new here is stored only if it does not exist.

    Args:
        agent_ids: The agents that it certainly holds; None if they were not recorded (the first version).
        is_new: Whether this process has created it.
    """

    def __init__(self, agent_ids: Iterable[str] | None, is_new: bool) -> None:
        self._is_recorded = agent_ids is not None
        self._agent_ids = set(agent_ids or ())
        self._is_new, self._multi_agent_ids = is_new, set[str]()

    @property
    def agent_ids(self) -> set[str]:
        """The agents that it certainly holds, or will hold."""
        return self._agent_ids.copy()

    def add_agent(self, agent_id: str) -> None:
        self._agent_ids.add(agent_id)

    def seems_new_agent(self, agent_id: str) -> bool:
        """Tell whether an agent was not stored yet."""
        return self._is_recorded and agent_id not in self._agent_ids

    def add_multi_agent(self, multi_agent_id: str) -> None:
        self._multi_agent_ids.add(multi_agent_id)

    def seems_new_multi_agent(self, multi_agent_id: str) -> bool:
        """Tell whether a Graph or Swarm was certainly not stored yet."""
        return self._is_new and multi_agent_id not in self._multi_agent_ids
