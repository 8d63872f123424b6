"""Which of many sockets can be read or written; ``poller.pyx`` takes this module's place where
it is compiled."""

from __future__ import annotations

import selectors

from .unpatched import unpatched


class Poller:
    """Watches descriptors, and is itself a descriptor that an event loop can watch.

    So a loop calls once a turn for all the connections of a worker, and not
    once for each of them.
    """

    def __init__(self) -> None:
        self._selector: selectors.EpollSelector = unpatched(selectors, "DefaultSelector")()
        self._ready: list[tuple[selectors.SelectorKey, int]] = []

    def fileno(self) -> int:
        """The descriptor to watch: readable when :meth:`wait` has something to tell."""
        return self._selector.fileno()

    def watch(self, fd: int, reading: bool, writing: bool) -> None:
        """Watch *fd* for what is wanted, instead of what was wanted before.

        :raises OSError: if the kernel can not watch any more.
        """
        events = reading * selectors.EVENT_READ | writing * selectors.EVENT_WRITE
        known = fd in self._selector.get_map()
        if known and events:
            self._selector.modify(fd, events)
        elif known:
            self._selector.unregister(fd)
        elif events:
            self._selector.register(fd, events)

    def watch_again(self, fd: int) -> None:
        """Tell of *fd* again if it is still ready, which otherwise is told only once."""

    def wait(self) -> int:
        """Ask which are ready, without waiting.

        :returns: how many; :meth:`fd`, :meth:`readable` and :meth:`writable`
            tell which and for what.
        """
        self._ready = self._selector.select(0)
        return len(self._ready)

    def fd(self, number: int) -> int:
        """The descriptor of that one of the ready."""
        return self._ready[number][0].fd

    def ended(self, number: int) -> bool:  # noqa: ARG002
        """Whether the peer has said that nothing more will come, so far as that is known."""
        return False

    def readable(self, number: int) -> bool:
        """Whether it can be read, or has an error to tell."""
        return bool(self._ready[number][1] & selectors.EVENT_READ)

    def writable(self, number: int) -> bool:
        """Whether it can be written, or has an error to tell."""
        return bool(self._ready[number][1] & selectors.EVENT_WRITE)

    def close(self) -> None:
        """Give the descriptor back."""
        self._selector.close()
