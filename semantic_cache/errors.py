"""Every error that the semantic cache raises on purpose, each with a name that a user can look up.

A cache that cannot answer is never an error of the call: lookups turn what goes wrong inside into a miss.
"""

from __future__ import annotations


class CacheError(Exception):
    """Base of all errors of the semantic cache."""


class InvalidRequest(CacheError, ValueError):
    """A request or an answer that breaks the contract: the message names the field."""


class InvalidPolicy(CacheError, ValueError):
    """A category whose fields contradict each other: the message names the category and the field."""


class CacheClosed(CacheError):
    """The cache was closed; nothing was changed."""


class UnknownEntry(CacheError, LookupError):
    """No entry has this id (any more)."""


class ConfirmationNeeded(CacheError):
    """A flush was asked for without repeating what it would delete; nothing was deleted."""


class EmbedderError(CacheError):
    """A text could not be embedded; the lookup goes on with the exact tier alone."""


class ModelFilesError(CacheError):
    """The files of an embedding model are missing, damaged or not the ones that were asked for."""


class StoreError(CacheError):
    """The cache's database cannot be used: another version, another program's file, or a disk error."""


class TransferError(CacheError):
    """A line of an import is not a valid entry; `line` counts from 1. Nothing of the import was stored."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f"line {line}: {message}")
        self.line = line
