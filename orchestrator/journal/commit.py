"""One transaction of the journal, as those see it who wait for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from orchestrator.errors import JournalUnavailable

log = logging.getLogger(__name__)


class Commit:
    """The ticket of every record of one transaction: durable, or refused by the disk, for all of them at once.

    Callbacks run in the order in which they were given, inside the event loop, once the records are durable; they
    never run if the disk refuses. A wait always ends: with None, or with JournalUnavailable.
    """

    __slots__ = ("_callbacks", "_durable", "_fault", "_waiter")

    def __init__(self) -> None:
        self._durable = False
        self._fault: JournalUnavailable | None = None
        self._callbacks: list[Callable[[], None]] = []
        self._waiter: asyncio.Future[None] | None = None

    @classmethod
    def of_nothing(cls) -> Commit:
        """The commit of no record: durable already."""
        commit = cls()
        commit._durable = True
        return commit

    @property
    def durable(self) -> bool:
        return self._durable

    def then(self, callback: Callable[[], None]) -> None:
        """Run `callback` when the records are durable: now, if they are."""
        if self._durable:
            callback()
        else:
            self._callbacks.append(callback)

    async def committed(self) -> None:
        """Wait until the records are durable. Raises JournalUnavailable."""
        if self._fault is not None:
            raise self._fault
        if not self._durable:
            if self._waiter is None:
                self._waiter = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._waiter)

    def succeed(self) -> None:
        """The transaction is on disk."""
        self._durable = True
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            try:
                callback()
            except Exception:  # one listener's fault must not keep the journal from the others
                log.exception("a listener of the journal failed")
        if self._waiter is not None:
            self._waiter.set_result(None)

    def fail(self, fault: JournalUnavailable) -> None:
        """The transaction will never be on disk."""
        self._fault = fault
        self._callbacks.clear()
        if self._waiter is not None:
            self._waiter.set_exception(fault)
            self._waiter.exception()  # whoever waited may have gone: no complaint about an unread fault
