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
    """What the server keeps of a key; `prefix` is its first 12 characters. An `operator` may also see and change what
    concerns all tenants. Raises ValueError if a field is no such thing."""

    prefix: str
    sha256: str = field(repr=False)
    tenant: str = DEFAULT_TENANT
    operator: bool = False

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


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom a request comes from. `principal`: one of the tenant's keys, by its prefix."""

    tenant: str
    principal: str
    operator: bool


_ANYONE = Caller(DEFAULT_TENANT, "local", operator=True)
NOBODY = Caller(DEFAULT_TENANT, "", operator=False)
"""Who asks for what is open to all."""


class KeyRing:
    """The keys that a server admits. Empty: every request is admitted, for the tenant "default". Where all keys are of
    one tenant, each of them is an operator's."""

    def __init__(self, keys: Iterable[ApiKey] = ()) -> None:
        self._keys: dict[str, list[ApiKey]] = {}
        for key in keys:
            self._keys.setdefault(key.prefix, []).append(key)
        self._one_tenant = len({key.tenant for known in self._keys.values() for key in known}) == 1

    def identify(self, authorization: str | None) -> Caller | None:
        """Whom an Authorization header's value names; None if it names no key. Takes the same time for every wrong key
        of a prefix."""
        if not self._keys:
            return _ANYONE
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        digest = _digest(key.strip())
        found = None
        for known in self._keys.get(key.strip()[:PREFIX_CHARS], ()):
            if hmac.compare_digest(known.sha256, digest):
                found = Caller(known.tenant, known.prefix, known.operator or self._one_tenant)
        return found

    def tenant(self, authorization: str | None) -> str | None:
        """Tenant of an Authorization header's value; None if it names no key."""
        found = self.identify(authorization)
        return None if found is None else found.tenant


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
