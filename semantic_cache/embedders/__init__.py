"""Text to unit vectors: a small ONNX model in process, any `/v1/embeddings` endpoint, or nothing at all."""

from semantic_cache.embedders.endpoint import EndpointEmbedder
from semantic_cache.embedders.onnx import OnnxEmbedder
from semantic_cache.embedders.protocol import Embedder

__all__ = ["Embedder", "EndpointEmbedder", "OnnxEmbedder"]
