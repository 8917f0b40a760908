"""Passages with a search and the sentence that answers it, or none: what the bundled model learns to quote from.

Passages are those of the default corpus in many wordings, and such as no template made: strange words in known places.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from examples.rag.corpus import WORDINGS, Fact, World, wording
from examples.rag.prompts import NONE, quote_prompt
from examples.rag.train.questions import SEARCHES
from examples.rag.wording import names_in

_CANONICAL = {"city_population": "population", "state_cities": "big_cities"}
STRANGE = (
    "mayor", "founder", "president", "river", "airport", "university",
    "bridge", "anthem", "team", "museum", "king", "flag",
    "harvest", "climate", "festival", "motto", "harbour", "dish", "altitude", "railway", "budget", "volcano", "theatre",
)  # fmt: skip
_STRANGE_SENTENCES = (
    "The $x of $s is $v.", "$v is the $x of $s.",
    "Its $x is called $v.", "$s has a $x named $v.", "Since 1990 its $x has been $v.",
    "Many know its $x, $v.", "The $x there is $v.",
)  # fmt: skip
_NOISE = (
    "Visitors like it.", "It is old.", "Many roads lead there.",
    "Nobody knows why.", "The winters are mild.", "Trade made it rich.",
    "The old town burned down in 1730.", "It was founded long ago.", "Many people visit it every year.",
)  # fmt: skip


class Reader:
    """Draws examples. Pages are the world's facts; each draw words them anew."""

    def __init__(self, world: World) -> None:
        pages: dict[str, list[tuple[Fact, str]]] = {}
        for page, fact, value in world.facts():
            pages.setdefault(page, []).append((fact, value))
        self._pages = list(pages.values())
        kinds = ("countries/", "cities/", "states/")
        self._kinds = [[facts for page, facts in pages.items() if page.startswith(kind)] for kind in kinds]
        self._titles = frozenset(facts[0][0].subject.lower() for facts in self._pages)

    def draw(self, rng: random.Random, known: frozenset[str] | None = None) -> tuple[str, str]:
        """A prompt in normal form and its answer: `[n]`, or `NONE`."""
        facts = rng.choice(rng.choices(self._kinds, (0.62, 0.30, 0.08))[0])
        asked, value = rng.choice(facts)
        search = SEARCHES[_CANONICAL.get(asked.relation, asked.relation)].replace("E", asked.subject)
        wanted = {asked}
        if asked.relation == "capital" and rng.random() < 0.35:  # the other way round
            search = f"{value} is the capital of"
        kind = rng.random()
        if kind < 0.16:
            return self._strange(rng, facts, known)
        if kind < 0.22:  # a search that the model has no words for finds nothing
            return self._example(rng, f"x of {asked.subject}", facts, set(), known)
        shown = list(facts)
        if kind < 0.38:  # the same page without the sentence
            shown = [item for item in facts if item[0] not in wanted]
        elif kind < 0.58:  # another page: other names, the same relations
            other = rng.choice(rng.choice(self._kinds))
            for _ in range(6):
                if any(fact.relation == asked.relation for fact, _ in other):
                    break
                other = rng.choice(rng.choice(self._kinds))
            shown = [item for item in other if item[0].subject != asked.subject]
        return self._example(rng, search, shown, wanted, known)

    def _example(
        self,
        rng: random.Random,
        search: str,
        facts: Sequence[tuple[Fact, str]],
        wanted: set[Fact],
        known: frozenset[str] | None,
    ) -> tuple[str, str]:
        size = rng.choice((1, 2, 3, 3, 4, 4, 5, 6))
        start = rng.randrange(max(1, len(facts) - size + 1))
        part = list(facts[start : start + size])
        hit = [item for item in facts if item[0] in wanted]
        if hit and hit[0] not in part:
            part[rng.randrange(len(part))] = hit[0]
        if rng.random() < 0.15:
            rng.shuffle(part)
        sentences = [wording(fact, value, rng, first=not n) for n, (fact, value) in enumerate(part)]
        answer = next((n for n, (fact, _) in enumerate(part, 1) if fact in wanted), 0)
        if rng.random() < 0.1 and sentences:
            at = rng.randrange(len(sentences) + 1)
            sentences.insert(at, rng.choice(_NOISE))
            answer += bool(answer) and at < answer
        title = part[0][0].subject if part else "it"
        names = names_in(search, self._titles, known)
        return quote_prompt(search, names, title, sentences or [rng.choice(_NOISE)]), f"[{answer}]" if answer else NONE

    def _strange(
        self, rng: random.Random, facts: Sequence[tuple[Fact, str]], known: frozenset[str] | None
    ) -> tuple[str, str]:
        """A search for something that the model has no word for."""
        import string

        subject = facts[0][0].subject
        thing = rng.choice(STRANGE)
        part = rng.sample(list(facts), min(len(facts), rng.randint(1, 4)))
        sentences = [wording(fact, value, rng, first=not n) for n, (fact, value) in enumerate(part)]
        answer = 0
        kind = rng.random()
        if kind < 0.75:
            told = thing if kind < 0.5 else rng.choice(STRANGE)
            template = string.Template(rng.choice(_STRANGE_SENTENCES))
            at = rng.randrange(len(sentences) + 1)
            sentences.insert(
                at, template.substitute(x=told, s=subject, v=rng.choice(("Bornholm", "Ada Quist", "Kestrel")))
            )
            answer = at + 1 if told == thing else 0
        search = f"{thing} of {subject}"
        names = names_in(search, self._titles, known)
        return quote_prompt(search, names, subject, sentences), f"[{answer}]" if answer else NONE


def vocabulary() -> set[str]:
    """Every word of the corpus's wordings."""
    import re

    text = " ".join(choice for choices in WORDINGS.values() for choice in choices).replace("$s", " ").replace("$v", " ")
    return set(re.findall(r"[a-z]+(?:['-][a-z]+)*", text.lower()))
