"""Nearest neighbours inside one partition: exact scan while it is small, a graph once it is large."""

from semantic_cache.index.partitions import VectorIndex

__all__ = ["VectorIndex"]
