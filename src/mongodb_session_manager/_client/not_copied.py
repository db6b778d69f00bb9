"""A base of objects that hold connections, threads and locks of this process."""

from typing import ClassVar, NoReturn

__all__ = ["NotCopied"]


class NotCopied:
    """Refuses to be pickled or copied, since it holds connections, threads and locks of this process."""

    _instead: ClassVar[str]

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(
            f"A {type(self).__name__} cannot be pickled or copied: it holds connections, threads and locks of this "
            f"process. {self._instead}"
        )
