"""Small tools to word things in many ways: templates with alternatives, numbers, comparisons, noun phrases.

Owns wording only. Never knows the schema or writes SQL.
"""

from __future__ import annotations

import random
import re

_CHOICE = re.compile(r"\{([^{}]*)\}")


def say(rng: random.Random, template: str, **slots: str) -> str:
    """Expand `{a|b|}` alternatives (nested ones inside out), then put `slots` in for `<name>` marks.

    Spaces are evened out; one before the text is kept, so that a part may be put behind another.
    """
    lead = " " if template.startswith(" ") else ""
    while "{" in template:
        template = _CHOICE.sub(lambda found: rng.choice(found[1].split("|")), template)
    for name, text in slots.items():
        template = template.replace(f"<{name}>", text)
    return lead + " ".join(template.split())


def pick(rng: random.Random, options: str) -> str:
    """One of the options parted by `|`, itself expanded."""
    depth, start, parts = 0, 0, []
    for index, letter in enumerate(options):
        depth += (letter == "{") - (letter == "}")
        if letter == "|" and not depth:
            parts.append(options[start:index])
            start = index + 1
    parts.append(options[start:])
    return say(rng, rng.choice(parts))


_WORDS = {
    2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine", 10: "ten", 12: "twelve",
    15: "fifteen", 20: "twenty", 30: "thirty", 40: "forty", 50: "fifty", 60: "sixty", 80: "eighty",
}  # fmt: skip


def speak_number(rng: random.Random, value: int) -> str:
    """`value` as people write it: in figures, with commas, with a magnitude, or in words."""
    forms = [str(value)] if value < 10_000 else [f"{value:,}", f"{value:,}", str(value)]
    if 1000 <= value < 10_000:
        forms.append(f"{value:,}")
    if value in _WORDS:
        forms += [_WORDS[value], str(value)]
    if value >= 1000 and value % 1000 == 0 and value < 1_000_000:
        thousands = value // 1000
        forms += [f"{thousands}k", f"{thousands},000", f"{thousands} thousand"]
        if thousands in _WORDS:
            forms.append(f"{_WORDS[thousands]} thousand")
        if thousands == 100:
            forms += ["a hundred thousand", "one hundred thousand"]
        if thousands == 500:
            forms += ["half a million"]
    if value >= 1_000_000 and value % 100_000 == 0:
        millions = value / 1_000_000
        shown = str(int(millions)) if millions == int(millions) else f"{millions:.1f}"
        forms += [f"{shown} million"] * 4 + [f"{shown}m", f"{shown}M"]
        if millions in _WORDS:
            forms += [f"{_WORDS[int(millions)]} million"] * 2
        if millions == 1:
            forms += ["a million"] * 4 + ["one million"]
        if value % 1_000_000_000 == 0:
            billions = value // 1_000_000_000
            forms += [f"{billions} billion"] * 5 + (["a billion"] * 5 if billions == 1 else [])
    return rng.choice(forms)


_ORDINALS = ["", "", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"]


def speak_ordinal(rng: random.Random, rank: int) -> str:
    """`rank` (2 and up) as 'third' or '3rd'."""
    suffix = {2: "nd", 3: "rd", 22: "nd", 23: "rd"}.get(rank, "th")
    return rng.choice(_ORDINALS[rank : rank + 1] * 2 + [f"{rank}{suffix}"])


MORE = (
    "more than|over|above|greater than|more than|over|exceeding|in excess of|higher than|larger than|bigger than"
    "|upwards of|beyond"
)
LESS = "less than|under|below|fewer than|smaller than|less than|lower than|under"
AT_LEAST = "at least|at least|no less than|no fewer than|a minimum of|minimum|not less than"
AT_MOST = "at most|up to|no more than|a maximum of|not more than|maximum"


def comparison(rng: random.Random) -> tuple[str, str]:
    """A comparison in SQL and in words; `<n>` marks the number's place."""
    roll = rng.random()
    if roll < 0.5:
        return ">", pick(rng, MORE) + " <n>"
    if roll < 0.78:
        return "<", pick(rng, LESS) + " <n>"
    if roll < 0.92:
        return ">=", say(rng, rng.choice([pick(rng, AT_LEAST) + " <n>", "<n> or more", "<n> {plus|and above|and up}"]))
    return "<=", say(rng, rng.choice([pick(rng, AT_MOST) + " <n>", "<n> or {less|fewer}"]))


_THIRD_PERSON = {
    "have": "has", "are": "is", "use": "uses", "do": "does", "lie": "lies", "belong": "belongs", "start": "starts",
    "begin": "begins", "end": "ends", "contain": "contains", "share": "shares", "span": "spans", "cover": "covers",
    "lack": "lacks", "exceed": "exceeds", "observe": "observes", "sit": "sits", "include": "includes", "pay": "pays",
    "keep": "keeps", "follow": "follows",
}  # fmt: skip


def third_person(verb_phrase: str) -> str:
    """'have more than …' as 'has more than …'."""
    first, _, rest = verb_phrase.partition(" ")
    return f"{_THIRD_PERSON.get(first, first)} {rest}".strip()
