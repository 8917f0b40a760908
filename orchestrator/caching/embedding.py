"""Which embedder a server has. Looks where the settings say; a semantic cache without one is told so, clearly."""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path

from orchestrator.caching.options import NO_EMBEDDER, CacheOptions
from semantic_cache import ModelFilesError
from semantic_cache.embedders import Embedder, EndpointEmbedder, OnnxEmbedder
from semantic_cache.embedders.export import export

log = logging.getLogger(__name__)


def load_embedder(options: CacheOptions, directory: Path) -> tuple[Embedder | None, str]:
    """The embedder, or None and why there is none. Exports its model into `directory` on first use (a second).

    Raises ModelFilesError if one was named that cannot be used: asked for is not the same as found by chance.
    """
    if options.mode != "semantic":
        return None, f"semantic_cache.mode is {options.mode!r}"
    source = options.embedder
    if source == NO_EMBEDDER:
        return None, "semantic_cache.embedder is 'none'"
    if source is not None and source.startswith(("http://", "https://")):
        if not options.embedder_model:
            raise ModelFilesError("an endpoint needs semantic_cache.embedder_model, the name of its model")
        dimensions = options.embedder_dimensions
        return EndpointEmbedder(source, options.embedder_model, dimensions, api_key=options.embedder_key), ""
    target = directory / "models" / _folder(source)
    try:
        export(target, source)
        return OnnxEmbedder(target), ""
    except ModelFilesError as error:
        if source is not None:
            raise
        return None, str(error)


def _folder(source: str | None) -> str:
    """One folder a source, readable and unmistakable."""
    if source is None:
        return "installed"
    return re.sub(r"[^A-Za-z0-9.-]+", "-", source)[-60:] + "-" + hashlib.sha256(source.encode()).hexdigest()[:8]
