"""`tenuto key`: make an API key. The key is printed once; the settings keep its prefix and SHA-256 only."""

from __future__ import annotations

import secrets
import sys
from typing import Annotated

import typer


def key(
    tenant: Annotated[str, typer.Option("--tenant", help="Whose programs the key may see.")] = "default",
    operator: Annotated[bool, typer.Option("--operator", help="May also see and change what concerns all.")] = False,
) -> None:
    """Make an API key, and the lines of tenuto.toml that admit it."""
    from orchestrator.api.auth import make_key
    from orchestrator.cli.options import fail

    if not tenant or not tenant.isprintable() or '"' in tenant or "\\" in tenant:
        fail(f"--tenant {tenant!r}: give a printable name without quotes and backslashes")
    secret, kept = make_key(tenant, secrets.token_bytes(28))
    print(f"# The key, shown this once: {secret}", file=sys.stderr)
    print(f'[[api_keys]]\nprefix = "{kept.prefix}"\nsha256 = "{kept.sha256}"\ntenant = "{kept.tenant}"')
    if operator:
        print("operator = true")
