"""Random models for engine benchmarks: one Llama directory, and the same numbers as GGUF for peers that read that.

Owns shapes and file formats of benchmark models. Measures nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

SHAPE: dict[str, Any] = {
    "vocab_size": 32_000,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 4096,
    "initializer_range": 0.1,
    "tie_word_embeddings": False,
    "eos_token_id": 0,
    "bos_token_id": 0,
    "pad_token_id": 0,
}
"""143 million parameters: the layers of SmolLM2-135M, an untied head and a smaller vocabulary."""
QUICK_SHAPE: dict[str, Any] = {**SHAPE, "num_hidden_layers": 4}
_LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_OUTER_NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write_llama(directory: Path, shape: dict[str, Any], seed: int) -> int:
    """Write a random Llama in bf16 with a byte-level tokenizer. Returns its number of parameters.

    bf16 numbers of this size are exact in fp16 and fp32 too, so every peer has the same weights.
    """
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    transformers.utils.logging.disable_progress_bar()
    directory.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<|end|>": 0, **{letter: 1 + index for index, letter in enumerate(alphabet)}}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"}))
    torch.manual_seed(seed)
    network = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape)).to(torch.bfloat16)
    network.save_pretrained(directory)
    return sum(parameter.numel() for parameter in network.parameters())


def write_gguf(directory: Path, file: Path) -> None:
    """The model of `directory` as GGUF: matrices in fp16, vectors in fp32. Needs `gguf`."""
    import gguf
    import torch
    from safetensors.torch import load_file

    config = json.loads((directory / "config.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    size = config["hidden_size"] // heads
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(size)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    _add_tokenizer(writer, directory, config["vocab_size"])
    for name, tensor in load_file(directory / "model.safetensors").items():
        numbers = tensor.to(torch.float32).numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            # GGUF's Llama turns neighbouring pairs, safetensors' turns halves: reorder the rows of each head.
            count = heads if "q_proj" in name else kv_heads
            halves = numbers.reshape(count, 2, size // 2, -1)
            numbers = halves.swapaxes(1, 2).reshape(numbers.shape)
        kind = np.float32 if numbers.ndim == 1 else np.float16
        writer.add_tensor(_gguf_name(name), np.ascontiguousarray(numbers.astype(kind)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: Any, directory: Path, vocab_size: int) -> None:
    import gguf

    tokenizer = json.loads((directory / "tokenizer.json").read_text())
    texts = {number: text for text, number in tokenizer["model"]["vocab"].items()}
    special = {token["id"] for token in tokenizer["added_tokens"]}
    kinds = []
    for number in range(vocab_size):
        known = gguf.TokenType.NORMAL if number in texts else gguf.TokenType.UNUSED
        kinds.append(gguf.TokenType.CONTROL if number in special else known)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([texts.get(number, f"[PAD{number}]") for number in range(vocab_size)])
    writer.add_token_types(kinds)
    writer.add_token_merges(["! !"])  # some readers want at least one
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)


def _gguf_name(name: str) -> str:
    stem = name.removesuffix(".weight")
    if stem in _OUTER_NAMES:
        return f"{_OUTER_NAMES[stem]}.weight"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{_LAYER_NAMES[part]}.weight"
