"""Whose call it is, as the cache needs to know."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose call it is. `user`: whom the tenant's own application asks for (`metadata["user"]`), or None."""

    tenant: str
    principal: str | None
    user: str | None
    workflow: str

    @property
    def name(self) -> str | None:
        """The principal as the cache knows it: two users behind one key are two."""
        if self.principal is None or self.user is None:
            return self.principal
        return f"{self.principal}/{self.user}"[:200]
