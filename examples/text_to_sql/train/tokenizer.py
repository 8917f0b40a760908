"""The bundled model's tokenizer: byte-level BPE over questions in normal form and SQL, and its chat template.

Owns the control tokens. Never sees the database.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

PAD, EOS, ANSWER = "<pad>", "<eos>", "<answer>"
TASKS = ("<sql>", "<repair>")
PARTS = ("<bad>", "<err>")
RESERVED = tuple(f"<task{index}>" for index in range(16))
"""Unused control tokens: tasks to come need no new vocabulary."""
SPECIAL = (PAD, EOS, ANSWER, *TASKS, *PARTS, *RESERVED)
VOCABULARY = 1536
_PIECES = (
    r" ?(?:ORDER BY|GROUP BY|COUNT\(\*\)|COUNT\(DISTINCT)"
    r"| ?[\p{L}_]+\p{N}?(?:\.[\p{L}_]+\p{N}?)?| ?\p{N}+| ?[^\s\p{L}\p{N}_]+|\s+"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ message['content'] }}<answer>"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] }}<eos>{% endif %}{% endfor %}"
)
"""System messages say nothing to this model; a user's message opens the answer, so no generation prompt is needed."""


def train_tokenizer(
    texts: Iterable[str],
    pieces: str = _PIECES,
    special: Sequence[str] = SPECIAL,
    vocabulary: int = VOCABULARY,
) -> Tokenizer:
    """Learn the vocabulary from `texts`, within `pieces`. Here a qualified column is one piece, so that it becomes one
    token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pieces), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(
    tokenizer: Tokenizer, folder: Path, special: Sequence[str] = SPECIAL, template: str = CHAT_TEMPLATE
) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json` as transformers and the engine read them."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": EOS,
        "pad_token": PAD,
        "additional_special_tokens": [token for token in special if token not in (EOS, PAD)],
        "clean_up_tokenization_spaces": False,
        "model_max_length": 512,
        "chat_template": template,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")


def prompt(task: str, text: str) -> str:
    """The model's prompt for one user message, as the chat template renders it."""
    return f"{task} {text}{ANSWER}"
