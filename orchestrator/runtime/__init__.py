"""Programs while they run: state, order, retries, readers, restart."""

from __future__ import annotations

from orchestrator.runtime.runtime import Runtime

__all__ = ["Runtime"]
