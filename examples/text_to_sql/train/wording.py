"""Disturbs a question as people do: politeness, lower case, slips of the keyboard, dropped and left-out words.

Never touches what looks like a value (capitals inside a sentence, digits, quotes).
"""

# ruff: noqa: E501 -- tables of phrases
from __future__ import annotations

import random

from examples.text_to_sql.words import word_list

OPENERS = (
    "please", "can you tell me", "could you tell me", "tell me", "i want to know", "do you know", "hey", "hi,", "ok,",
    "i'd like to know", "i was wondering", "quick question:", "can you", "just", "so", "help me find out", "i need to know",
    "can you please tell me", "let me know", "i'm curious", "we need to know", "using the database,", "hello,", "hmm,",
    "for my school project,", "for my homework:", "trivia:", "quiz question:", "random question:", "for a report i need",
    "my teacher asks", "my son asked me", "i'm trying to find out", "i wonder", "now", "and", "next:", "let's see,",
    "according to the data,", "in the database,", "from your records,", "could you please look up", "look up", "i forgot,",
    "i can never remember", "remind me", "settle a bet:", "for a pub quiz,", "just out of curiosity,", "off the top of your head,",
    "would you mind telling me", "does anybody know", "any idea", "one more question:", "ok so", "alright,", "well,", "say,",
    "i am making a map and need", "i'm writing an article,", "we were discussing", "it would help to know", "do you happen to know",
)  # fmt: skip
CLOSERS = (
    "please", "thanks", "in the database", "in this database", "in the dataset", "exactly", "right now", "currently", "today",
    "in our data", "in the world", "if any", "thank you", "do you think", "according to the data", "for me", "in your data",
    "in the list", "in the table", "that you know of", "that you know", "if you know", "anyway", "again", "on record", "on earth",
    "worldwide", "globally", "in your records", "i wonder", "actually", "as far as you know", "if possible", "on file", "by the way",
    "in total", "altogether", "overall", "at the moment", "these days", "? i forgot", "? just curious", "? thanks", ". thanks a lot",
)  # fmt: skip
NOISE = word_list(
    "actually really basically maybe still even ever quite roughly exactly literally simply currently presently kind sort thing "
    "stuff known existing various certain given respective individual whole entire present recorded available actual official main "
    "well usually normally generally possibly perhaps likely indeed already also too often here these those such following above "
    "please kindly quickly guys friend sir folks everyone anyone somebody buddy"
)
_DROPPED = frozenset(word_list("the a an is are of all does do there me"))


def disturb(rng: random.Random, text: str) -> str:
    """`text` as somebody else would have typed it."""
    words = text.split()
    if rng.random() < 0.07:
        words = [word for word in words if word not in _DROPPED or rng.random() < 0.5] or words
    if rng.random() < 0.05:
        words = [_slip(rng, word) for word in words]
    if rng.random() < 0.05:
        words.insert(rng.randrange(len(words) + 1), rng.choice(NOISE))
    if rng.random() < 0.03:
        words.insert(rng.choice([0, rng.randrange(len(words) + 1)]), _unknown_word(rng))
    text = " ".join(words)
    if rng.random() < 0.1:
        text = f"{rng.choice(OPENERS)} {text}"
    if rng.random() < 0.05:
        text = f"{text} {rng.choice(CLOSERS)}"
    roll = rng.random()
    if roll < 0.7:
        text = text[:1].upper() + text[1:]
    elif roll < 0.8:
        text = text.lower() if "'" not in text and '"' not in text else text
    return text + rng.choice(["?", "?", "", ".", ""])


_SYLLABLES = word_list(
    "ba re tion ing co sta pro lu men ter ga vi sho pre fle dor cra nin sel ous ly mag bri tem pho nex wal"
)


def _unknown_word(rng: random.Random) -> str:
    """A word that means nothing here, so that words never seen are learnt to be passed over."""
    return "".join(rng.choice(_SYLLABLES) for _ in range(rng.choice([2, 2, 3])))


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
