"""API keys: who a request comes from.

Keys are known by a prefix and a SHA-256 only; the key itself is shown once, when it is made, and kept nowhere.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field

PREFIX_CHARS = 12
DEFAULT_TENANT = "default"
_SCHEME = "tnt_"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What the server keeps of a key; `prefix` is its first 12 characters. Raises ValueError if a field is no such
    thing."""

    prefix: str
    sha256: str = field(repr=False)
    tenant: str = DEFAULT_TENANT

    def __post_init__(self) -> None:
        if len(self.prefix) != PREFIX_CHARS:
            raise ValueError(f"prefix must be the first {PREFIX_CHARS} characters of the key, not {self.prefix!r}")
        if len(self.sha256) != 64 or not set(self.sha256) <= set("0123456789abcdef"):
            raise ValueError("sha256 must be 64 lower-case hexadecimal digits; 'tenuto key' prints them")
        if not self.tenant:
            raise ValueError("tenant must not be empty")


def make_key(tenant: str, random_bytes: bytes) -> tuple[str, ApiKey]:
    """A new key, to be shown once, and what to keep of it. `random_bytes`: 24 or more from a secure source."""
    if len(random_bytes) < 24:
        raise ValueError("a key needs 24 random bytes")
    digits = random_bytes.hex()
    key = f"{_SCHEME}{digits[:8]}_{digits[8:]}"
    return key, ApiKey(key[:PREFIX_CHARS], _digest(key), tenant)


class KeyRing:
    """The keys that a server admits. Empty: every request is admitted, for the tenant "default"."""

    def __init__(self, keys: Iterable[ApiKey] = ()) -> None:
        self._keys: dict[str, list[ApiKey]] = {}
        for key in keys:
            self._keys.setdefault(key.prefix, []).append(key)

    def tenant(self, authorization: str | None) -> str | None:
        """Tenant of an Authorization header's value; None if it names no key. Takes the same time for every wrong key
        of a prefix."""
        if not self._keys:
            return DEFAULT_TENANT
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        digest = _digest(key.strip())
        tenant = None
        for known in self._keys.get(key.strip()[:PREFIX_CHARS], ()):
            if hmac.compare_digest(known.sha256, digest):
                tenant = known.tenant
        return tenant


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
