"""What the bundled model is shown: one line of normal form, behind `<normal>`, which its chat template reads alone."""

from __future__ import annotations

import re
from collections.abc import Sequence

from examples.rag.wording import normal

PLAN = "<plan>"
QUOTE = "<quote>"
NONE = "not in the documents"


def quote_prompt(search: str, names: Sequence[str], title: str, sentences: Sequence[str]) -> str:
    """The normal form of a search and of a passage, its sentences numbered."""
    numbered = " ".join(f"[{n}] {normal(text, names)}" for n, text in enumerate(sentences, 1))
    asked = re.sub(r"^state of\b", "american state of", normal(search, names))  # the states that it learned of
    return f"{asked} <in> {normal(title, names)} : {numbered}"
