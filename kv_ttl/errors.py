"""The typed errors of retention.

Owns their names; never raises anything itself.
"""

from __future__ import annotations


class RetentionError(ValueError):
    """An input of `kv_ttl` that cannot be used; the message says which, where and why."""


class UnknownCall(RetentionError):
    """A call that the duration model was never told of, or that has already ended."""


class UnknownLease(RetentionError):
    """A lease id that the ledger never gave out."""


class DuplicateLease(RetentionError):
    """The program already holds a live lease on that block range."""
