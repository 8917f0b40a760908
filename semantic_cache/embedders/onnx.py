"""The embedder in process: onnxruntime and tokenizers on one thread of its own.

Owns the model's session. Texts are embedded one by one (see `bert_graph` for why there is no batch); the thread
works without the interpreter's lock, so the event loop goes on meanwhile.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from semantic_cache.embedders.export import MODEL_FILE, TOKENIZER_FILE, ModelCard, read_card
from semantic_cache.embedders.protocol import Vector
from semantic_cache.errors import EmbedderError, ModelFilesError


class OnnxEmbedder:
    """An exported model (see `export`). Raises ModelFilesError when its files are not what their card says."""

    def __init__(self, directory: Path, threads: int = 1) -> None:
        try:
            import onnxruntime
            from tokenizers import Tokenizer
        except ImportError as error:
            raise ModelFilesError(f"the embedder needs `pip install 'tenuto[cache]'`: {error}") from error
        self.card: ModelCard = read_card(directory)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            str(directory / MODEL_FILE), options, providers=["CPUExecutionProvider"]
        )
        self._tokenizer = Tokenizer.from_file(str(directory / TOKENIZER_FILE))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embedder")

    @property
    def digest(self) -> str:
        return self.card.digest

    @property
    def dimensions(self) -> int:
        return self.card.dimensions

    def tokenize(self, text: str) -> list[int]:
        """The ids of a text's tokens, with those that mark its ends."""
        ids: list[int] = self._tokenizer.encode(text).ids
        return ids

    def embed_now(self, text: str) -> Vector | None:
        """As `embed`, on the calling thread."""
        ids = self.tokenize(text)
        if len(ids) > self.card.max_tokens:
            return None
        try:
            (vectors,) = self._session.run(["embedding"], {"input_ids": np.array([ids], dtype=np.int64)})
        except Exception as error:  # onnxruntime raises its own kinds
            raise EmbedderError(f"the model failed: {error}") from error
        vector: Vector = vectors[0]
        return vector

    async def embed(self, text: str) -> Vector | None:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self.embed_now, text)
        except RuntimeError as error:
            raise EmbedderError(f"the embedder is closed: {error}") from error

    async def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
