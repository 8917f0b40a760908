"""What a small model's plan is held against: the words of the question that ask for a search.

A model of 1.5 M parameters guesses where it does not know a word. A search that the question has no word for is
dropped; where none is left, what the question asks for in so many words is searched. Searches of other kinds, as
general models write them, are left alone. Pure functions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

WORDS: dict[str, tuple[str, str]] = {
    "continent of": ("continent*", "part africa* asia* europe* america oceania*"),
    "capital of": ("capital*", "govern* parliament seat ruled rules run led"),
    "population of": (
        "popul* inhabit* resid* pop",
        "citizen* crowded people* live* living folk* souls humans dwell* home",
    ),
    "area of": (
        "area surface square sq km territory",
        "size large* big* huge vast tiny small* extent land ground space cover*",
    ),
    "currency of": (
        "currenc* money cash coin* bank* euro euros",
        "note* tender pay* paid dollar* price* spend* spent charge* change*",
    ),
    "calling code of": ("phon* telephon* dial*", "call* ring* prefix* code number*"),
    "internet domain of": (
        "domain* internet web* url* tld* homepage*",
        "site* online suffix* ending* extension* address*",
    ),
    "languages of": ("language* tongue* speak* spoken talk*", "speech hear"),
    "neighbours of": (
        "neighb* border* frontier* adjacent adjoin* surround*",
        "countries next touch* around beside shar* between",
    ),
    "largest city of": ("city town metropolis place urban", "cities towns"),
    "big cities of": ("cities towns", "city places"),
    "country of": (
        "which_country what_country where_is",
        "countr* nation* land where* located situated lie* find found",
    ),
    "time zone of": ("zone* timezone* clock*", "watch* time"),
    "coordinates of": (
        "coord* latitude longitude gps degree*",
        "map globe earth position location exact* precise* where",
    ),
    "state of": ("state", "states"),
    "@ is the capital of": ("", "capital* govern* seat ruled run"),
    "postal code of": ("abbrev* postal", "code letters short* stand* envelope address*"),
}  # fmt: skip
"""By a search without its name (`@`): words that ask for it, and further words that can; `*` for any ending."""
_THINGS = "president|king|queen|leader|flag|anthem|religion|weather|temperature|mountain|river|building"
"""What the normal form keeps, though no search is about it; a strange word is `x`."""
_OF_A_THING = re.compile(rf"\b(?:x|{_THINGS}) of (?:the )?e\d")
_THING = re.compile(rf"\b(?:{_THINGS})\b")


def _pattern(words: str) -> re.Pattern[str]:
    parts = [word.replace("_", " ") for word in words.split()]
    return re.compile("|".join(rf"\b{w[:-1]}" if w.endswith("*") else rf"\b{w}\b" for w in parts) or r"(?!)")


_ASKING = {kind: _pattern(asking) for kind, (asking, _) in WORDS.items()}
_FITTING = {kind: _pattern(f"{asking} {fitting}") for kind, (asking, fitting) in WORDS.items()}


def checked(searches: Sequence[str], question: str, normal: str, names: Sequence[str]) -> list[str]:
    """The searches that the question asks for. `normal` is its normal form, `names` those in it."""
    text = f"{_masked(question, names)} {normal}"
    kinds = {search: _kind(search, names) for search in searches}
    if all(kind not in WORDS for kind in kinds.values()):
        return list(searches)
    unknown = " ".join(["x of", *names[:1]])
    if _OF_A_THING.search(normal):
        return [unknown]
    found = [s for s, kind in kinds.items() if kind not in WORDS or _FITTING[kind].search(text)]
    asking = {kind for kind, pattern in _ASKING.items() if pattern.search(text)}
    sure = any(kinds[s] not in WORDS or kinds[s] in asking or not WORDS[kinds[s]][0] for s in found)
    if names and not sure and not _THING.search(normal):
        found = [f"{kind} {names[0]}" for kind in WORDS if kind in asking and kind != "largest city of"] or found
    return found or [unknown]


def _kind(search: str, names: Sequence[str]) -> str:
    kind = " ".join(_masked(search, names).split())
    return kind if kind.startswith("@") else kind.removesuffix(" @")


def _masked(text: str, names: Sequence[str]) -> str:
    """In lower case, with `@` for names."""
    for name in sorted(names, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "@", text, flags=re.IGNORECASE)
    return text.lower()
