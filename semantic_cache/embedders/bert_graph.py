"""The ONNX graph of a small BERT sentence encoder, written from its weights.

One text of any length in, one unit vector out: no padding and no batch, so a text's vector never depends on what
stands beside it (dynamic quantisation takes its scale from the whole tensor). Needs the package `onnx`; only
exporting does. Shapes: `input_ids` int64 [1, tokens] -> `embedding` float32 [1, hidden].

Weights of the matrix products are symmetric per output channel in 7 of 8 bits: on x86 without VNNI a product of
eight unsigned and eight signed bits saturates, and the same text would get another vector on another machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Weights = Mapping[str, NDArray[Any]]

_LARGEST = 63  # of 7 bits, symmetric
_CONTRIB = "com.microsoft"


@dataclass(frozen=True, slots=True)
class BertShape:
    """What of a BERT's `config.json` decides the graph."""

    layers: int
    heads: int
    epsilon: float
    max_tokens: int


class _Graph:
    """Nodes and constants under construction."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, op: str, inputs: list[str], output: str, domain: str = "", **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, domain=domain, **attributes))
        return output

    def linear(self, x: str, name: str, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> str:
        """`x @ weight.T + bias` with `weight` [out, in] in int8 and `x` quantised as it comes."""
        columns = weight.T
        scale = np.maximum(np.abs(columns).max(axis=0) / _LARGEST, 1e-12).astype(np.float32)
        quantised = np.clip(np.rint(columns / scale), -_LARGEST, _LARGEST).astype(np.int8)
        inputs = [
            x,
            self.constant(f"{name}.weight", quantised),
            self.constant(f"{name}.scale", scale),
            "",  # no zero points: symmetric
            self.constant(f"{name}.bias", bias),
        ]
        return self.node("DynamicQuantizeMatMul", inputs, name, _CONTRIB)

    def add_and_norm(self, x: str, skip: str, name: str, prefix: str, epsilon: float) -> str:
        # two operators: the contributed SkipLayerNormalization takes 28 us for 12 tokens, these together 10
        total = self.node("Add", [x, skip], f"{name}.sum")
        gain = self.constant(f"{name}.gain", self.weights[f"{prefix}.weight"])
        shift = self.constant(f"{name}.shift", self.weights[f"{prefix}.bias"])
        return self.node("LayerNormalization", [total, gain, shift], name, axis=-1, epsilon=epsilon)

    def dense(self, x: str, name: str, prefix: str) -> str:
        return self.linear(x, name, self.weights[f"{prefix}.weight"], self.weights[f"{prefix}.bias"])


def sentence_encoder(weights: Weights, shape: BertShape) -> onnx.ModelProto:
    """Embeddings, `shape.layers` encoder layers, mean over tokens, unit length.

    `weights` has the tensor names of Hugging Face's `BertModel`. Raises KeyError for a missing tensor.
    """
    graph = _Graph(weights)
    x = _embeddings(graph, shape)
    for layer in range(shape.layers):
        x = _layer(graph, x, layer, shape)
    mean = graph.node("ReduceMean", [x, graph.constant("token_axis", np.array([1]))], "mean", keepdims=0)
    graph.node("LpNormalization", [mean], "embedding", axis=-1, p=2)
    hidden = int(weights["embeddings.LayerNorm.weight"].shape[0])
    body = helper.make_graph(
        graph.nodes,
        "sentence_encoder",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "tokens"])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [1, hidden])],
        graph.constants,
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(_CONTRIB, 1)]
    return helper.make_model(body, opset_imports=opsets, ir_version=9, producer_name="tenuto")


def _embeddings(graph: _Graph, shape: BertShape) -> str:
    """Word + position + type embeddings, normalised. The word table is kept in half precision."""
    words = graph.weights["embeddings.word_embeddings.weight"].astype(np.float16)
    places = graph.weights["embeddings.position_embeddings.weight"][: shape.max_tokens]
    places = places + graph.weights["embeddings.token_type_embeddings.weight"][0]
    half = graph.node("Gather", [graph.constant("words", words), "input_ids"], "word_half")
    word = graph.node("Cast", [half], "word", to=TensorProto.FLOAT)
    length = graph.node("Shape", ["input_ids"], "length", start=1, end=2)
    first, axis = graph.constant("first", np.array([0])), graph.constant("axis", np.array([0]))
    place = graph.node("Slice", [graph.constant("places", places.astype(np.float32)), first, length, axis], "place")
    total = graph.node("Add", [word, place], "embedded")
    gain = graph.constant("embedded.gain", graph.weights["embeddings.LayerNorm.weight"])
    shift = graph.constant("embedded.shift", graph.weights["embeddings.LayerNorm.bias"])
    return graph.node("LayerNormalization", [total, gain, shift], "layer_in", axis=-1, epsilon=shape.epsilon)


def _layer(graph: _Graph, x: str, layer: int, shape: BertShape) -> str:
    """Self-attention and feed-forward, each with its residual and norm. Q, K and V are one product."""
    name, prefix = f"layer{layer}", f"encoder.layer.{layer}"
    own = [f"{prefix}.attention.self.{part}" for part in ("query", "key", "value")]
    weight = np.concatenate([graph.weights[f"{p}.weight"] for p in own])
    bias = np.concatenate([graph.weights[f"{p}.bias"] for p in own])
    joint = graph.linear(x, f"{name}.qkv", weight, bias)
    parts = [f"{name}.q", f"{name}.k", f"{name}.v"]
    graph.nodes.append(helper.make_node("Split", [joint], parts, name=f"{name}.split", axis=-1, num_outputs=3))
    mixed = graph.node("MultiHeadAttention", parts, f"{name}.attention", _CONTRIB, num_heads=shape.heads)
    out = graph.dense(mixed, f"{name}.out", f"{prefix}.attention.output.dense")
    x = graph.add_and_norm(out, x, f"{name}.norm1", f"{prefix}.attention.output.LayerNorm", shape.epsilon)
    wide = graph.dense(x, f"{name}.wide", f"{prefix}.intermediate.dense")
    wide = graph.node("Gelu", [wide], f"{name}.gelu", _CONTRIB)
    narrow = graph.dense(wide, f"{name}.narrow", f"{prefix}.output.dense")
    return graph.add_and_norm(narrow, x, f"{name}.norm2", f"{prefix}.output.LayerNorm", shape.epsilon)
