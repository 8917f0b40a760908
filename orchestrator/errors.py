"""Faults that the server reports to a client: each a class with a name, an HTTP status and a title.

Owns their shape. Never formats an HTTP answer: the API maps these one to one to RFC 9457 documents.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from tenuto.wire import FieldError


class RuntimeFault(Exception):
    """Base of every fault that a client may see. `detail` says what was wrong with this very request."""

    name: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "The server failed"
    retryable: ClassVar[bool] = False

    def __init__(self, detail: str, *, errors: Iterable[FieldError] = (), retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = tuple(errors)
        self.retry_after_s = retry_after_s


class InvalidSubmission(RuntimeFault):
    name = "invalid_submission"
    status = 422
    title = "The request names something that cannot be run"


class IdempotencyMismatch(RuntimeFault):
    name = "idempotency_mismatch"
    status = 422
    title = "The idempotency key was used with another body"


class NotFound(RuntimeFault):
    name = "not_found"
    status = 404
    title = "There is no such thing"


class CacheOff(RuntimeFault):
    name = "cache_off"
    status = 404
    title = "The server runs without a semantic cache"


class Forbidden(RuntimeFault):
    name = "forbidden"
    status = 403
    title = "The key does not allow this"


class ConfirmationNeeded(RuntimeFault):
    name = "confirmation_needed"
    status = 409
    title = "The request must repeat what it would delete"


class WorkerUnknown(RuntimeFault):
    name = "worker_unknown"
    status = 404
    title = "The worker is not registered, or was lost"


class Conflict(RuntimeFault):
    name = "conflict"
    status = 409
    title = "The request conflicts with another one"
    retryable = True


class ProgramEnded(RuntimeFault):
    name = "program_ended"
    status = 409
    title = "The program takes no more calls"


class TooLarge(RuntimeFault):
    name = "too_large"
    status = 413
    title = "The request is larger than the server's limit"


class Busy(RuntimeFault):
    name = "busy"
    status = 429
    title = "The server has as much work as it may hold"
    retryable = True


class JournalUnavailable(RuntimeFault):
    """The disk refused a write: nothing more can be promised until the server is started again."""

    name = "journal_unavailable"
    status = 503
    title = "The journal cannot be written"


class ShuttingDown(RuntimeFault):
    name = "shutting_down"
    status = 503
    title = "The server is closing"
    retryable = True
