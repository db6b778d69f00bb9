"""Marks a method that stands for one of a base class; ``typing`` has it from Python 3.12 on."""

from typing import TYPE_CHECKING, Any

__all__ = ["override"]

if TYPE_CHECKING:
    from typing_extensions import override
else:

    def override(method: Any) -> Any:
        """Return the method, marked as ``typing.override`` marks it."""
        method.__override__ = True
        return method
