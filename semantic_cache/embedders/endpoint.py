"""An embedder behind any `/v1/embeddings` endpoint.

Owns one HTTP client. The endpoint's weights cannot be checked from here: `digest` names the address, the model and a
revision that the operator raises when the weights behind them change.
"""

from __future__ import annotations

import hashlib
import math

import httpx
import numpy as np
from pydantic import BaseModel, Field, ValidationError

from semantic_cache.embedders.protocol import Vector
from semantic_cache.errors import EmbedderError


class _Embedding(BaseModel):
    embedding: list[float] = Field(min_length=1)


class _Response(BaseModel):
    data: list[_Embedding] = Field(min_length=1, max_length=1)


class EndpointEmbedder:
    """`POST {base_url}/embeddings` with one text at a time.

    `max_chars`: longer texts are not embedded, as an endpoint may cut them in silence. `transport` replaces the
    network in tests.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        dimensions: int,
        *,
        revision: str = "",
        api_key: str | None = None,
        max_chars: int = 2_000,
        timeout_s: float = 2.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._model = model
        self._dimensions = dimensions
        self._max_chars = max_chars
        self._digest = hashlib.sha256(f"{base_url}\n{model}\n{dimensions}\n{revision}".encode()).hexdigest()
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.AsyncClient(
            base_url=base_url.rstrip("/") + "/", headers=headers, timeout=timeout_s, transport=transport
        )

    @property
    def digest(self) -> str:
        return self._digest

    @property
    def dimensions(self) -> int:
        return self._dimensions

    async def embed(self, text: str) -> Vector | None:
        if len(text) > self._max_chars:
            return None
        try:
            response = await self._http.post("embeddings", json={"model": self._model, "input": text})
            response.raise_for_status()
            values = _Response.model_validate_json(response.content).data[0].embedding
        except (httpx.HTTPError, ValidationError) as error:
            raise EmbedderError(f"{self._http.base_url}embeddings: {error}") from error
        if len(values) != self._dimensions:
            raise EmbedderError(f"the endpoint's vectors have {len(values)} dimensions, not {self._dimensions}")
        vector = np.asarray(values, dtype=np.float32)
        length = float(np.linalg.norm(vector))
        if not (math.isfinite(length) and length > 0):
            raise EmbedderError("the endpoint's vector has no direction")
        return vector / length

    async def close(self) -> None:
        await self._http.aclose()
