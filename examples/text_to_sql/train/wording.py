"""Disturbs a question as people do: politeness, lower case, slips of the keyboard, dropped and left-out words.

Never touches what looks like a value (capitals inside a sentence, digits, quotes).
"""

from __future__ import annotations

import random

_OPENERS = (
    "please", "can you tell me", "could you tell me", "tell me", "i want to know", "do you know", "hey", "hi,", "ok,",
    "i'd like to know", "i was wondering", "quick question:", "can you", "just", "so", "help me find out", "i need to know",
    "can you please tell me", "let me know", "i'm curious", "we need to know", "using the database,", "hello,", "what about",
)  # fmt: skip
_CLOSERS = ("please", "thanks", "in the database", "in this database", "in the dataset", "exactly", "right now", "currently", "today", "in our data", "in the world", "if any", "thank you", "do you think", "according to the data", "for me")
_DROPPED = frozenset("the a an is are of all does do there me".split())


def disturb(rng: random.Random, text: str) -> str:
    """`text` as somebody else would have typed it."""
    words = text.split()
    if rng.random() < 0.07:
        words = [word for word in words if word not in _DROPPED or rng.random() < 0.5] or words
    if rng.random() < 0.05:
        words = [_slip(rng, word) for word in words]
    text = " ".join(words)
    if rng.random() < 0.1:
        text = f"{rng.choice(_OPENERS)} {text}"
    if rng.random() < 0.05:
        text = f"{text} {rng.choice(_CLOSERS)}"
    roll = rng.random()
    if roll < 0.7:
        text = text[:1].upper() + text[1:]
    elif roll < 0.8:
        text = text.lower() if "'" not in text and '"' not in text else text
    return text + rng.choice(["?", "?", "", ".", ""])


def _slip(rng: random.Random, word: str) -> str:
    """A slip in a long plain word, one time in six: a letter lost, doubled or swapped with its neighbour."""
    if len(word) < 5 or not word.isalpha() or not word.islower() or rng.random() > 0.17:
        return word
    index = rng.randrange(1, len(word) - 1)
    kind = rng.randrange(3)
    if kind == 0:
        return word[:index] + word[index + 1 :]
    if kind == 1:
        return word[:index] + word[index] + word[index:]
    return word[:index] + word[index + 1] + word[index] + word[index + 2 :]
