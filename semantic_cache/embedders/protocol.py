"""What an embedder is. A cache without one has the exact tier alone."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]


class Embedder(Protocol):
    """Texts to vectors of unit length.

    Contract: the vector of a text depends on the text and on what `digest` names, on nothing else (not on what is
    embedded beside it, not on the machine). `digest` is kept with every vector, and vectors of different digests
    are never compared.
    """

    @property
    def digest(self) -> str:
        """Names the exact weights and precision."""
        ...

    @property
    def dimensions(self) -> int: ...

    async def embed(self, text: str) -> Vector | None:
        """The vector, shape [dimensions]; None when the text is too long to be embedded whole, because two long
        texts that differ only at the end must not look alike. Raises EmbedderError."""
        ...

    async def close(self) -> None:
        """Free what it holds."""
        ...
