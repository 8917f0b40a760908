"""How an answer's header tells that the semantic cache gave it. Owns that one text."""

from __future__ import annotations

from tenuto.wire import CacheHit


def cache_status(hit: CacheHit) -> str:
    """The `Cache-Status` header (RFC 9211) of an answer that came from the semantic cache."""
    told = f"{hit.tier}; category={hit.category}; similarity={hit.similarity:.3f}; age={hit.age_s:.0f}"
    return f'tenuto; hit; detail="{told}; saved={hit.saved_s:.3f}s; tokens={hit.saved_tokens}"'
