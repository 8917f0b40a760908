"""Why one attempt of a call gave no value."""

from __future__ import annotations

from tenuto.wire import ErrorValue


class CallFailure(Exception):
    """One attempt failed. `type` is a name that the docs explain.

    `retryable`: another attempt, of those that the call's `retry` allows, may succeed.
    `lost`: the engine or worker died under the call; it may be run again beyond its attempts if its effect allows.
    """

    def __init__(self, type: str, message: str, *, retryable: bool = False, lost: bool = False) -> None:
        super().__init__(message)
        self.type = type
        self.message = message
        self.retryable = retryable
        self.lost = lost

    def error(self, call: str, attempts: int) -> ErrorValue:
        """The failure as the protocol shows it."""
        return ErrorValue(type=self.type, message=self.message, call=call, attempts=attempts)
