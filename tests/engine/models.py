"""Small random models on disk, with a byte-level tokenizer trained on the spot, as model directories have them.

Untied heads and a large initial spread: small-init tied models repeat one token and prove nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

CONTEXT = 256
SPECIALS = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_CORPUS = [
    "the quick brown fox jumps over the lazy dog",
    'select name, population from city where country = "Österreich" order by population desc limit 10;',
    '{"name": "Zürich", "rows": [1, 2, 3], "ok": true, "none": null}',
    "naïve café déjà vu 日本語 東京 Ελλάδα мир 🙂🚀",
]
_SHAPE: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
    "eos_token_id": 0,
    "bos_token_id": None,
    "pad_token_id": None,
}
_CLASSES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM, {}),
    "llama-biases": (
        transformers.LlamaConfig,
        transformers.LlamaForCausalLM,
        {"attention_bias": True, "mlp_bias": True, "head_dim": 16},
    ),
    "smollm2": (
        transformers.LlamaConfig,
        transformers.LlamaForCausalLM,
        {"tie_word_embeddings": True, "num_attention_heads": 3, "num_key_value_heads": 1},
    ),
    "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM, {"sliding_window": None}),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM, {}),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM, {"head_dim": 20}),
}
FAMILIES = tuple(_CLASSES)


def make_tokenizer(vocab_size: int = 384) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIALS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return tokenizer


def make_model(directory: Path, family: str = "llama", seed: int = 0, **changes: Any) -> Path:
    """Write a model directory of `family`; `changes` are keys of its config."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer()
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {"eos_token": "<|end|>", "chat_template": TEMPLATE}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    make_config, make_network, family_changes = _CLASSES[family]
    vocab = tokenizer.get_vocab_size() + 3  # models often have more rows than the tokenizer has ids
    config = make_config(**{**_SHAPE, "vocab_size": vocab, **family_changes, **changes})
    torch.manual_seed(seed)
    network = make_network(config)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    transformers.utils.logging.disable_progress_bar()
    network.save_pretrained(directory)
    return directory


def reference(directory: Path) -> Any:
    """The same model in transformers, fp32."""
    network = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    return network.eval()


def reference_greedy(network: Any, prompt: list[int], count: int) -> list[int]:
    """What transformers generates greedily, end tokens ignored."""
    ids = torch.tensor([prompt])
    # Without a mask `generate` would take ids that equal the padding's, which may well stand in a prompt, for padding.
    ids = network.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    out: list[int] = ids[0, len(prompt) :].tolist()
    return out


_PROJECTIONS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)


def make_adapter(directory: Path, model: Path, seed: int = 0, rank: int = 4, **changes: Any) -> Path:
    """Write a LoRA adapter for the model in `model` as PEFT does, strong enough to change what is said."""
    directory.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    tensors = {}
    for name, weight in load_file(model / "model.safetensors").items():
        stem = name.removesuffix(".weight")
        if stem.endswith(_PROJECTIONS):
            outputs, inputs = weight.shape
            tensors[f"base_model.model.{stem}.lora_A.weight"] = torch.randn(rank, inputs) * inputs**-0.5
            tensors[f"base_model.model.{stem}.lora_B.weight"] = torch.randn(outputs, rank) * 0.5
    save_file(tensors, str(directory / "adapter_model.safetensors"))
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "bias": "none", **changes}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return directory


def merged(model: Path, adapter: Path) -> Any:
    """The model in transformers with the adapter's products added to its weights: W + alpha / r B A."""
    network = reference(model)
    config = json.loads((adapter / "adapter_config.json").read_text())
    tensors = load_file(adapter / "adapter_model.safetensors")
    scale = config["lora_alpha"] / (config["r"] ** 0.5 if config.get("use_rslora") else config["r"])
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            if f"{stem}.lora_A.weight" in tensors:
                parameter += scale * tensors[f"{stem}.lora_B.weight"] @ tensors[f"{stem}.lora_A.weight"]
    return network
