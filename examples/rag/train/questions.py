"""Questions in many wordings with the searches that they ask for: what the bundled model learns to plan from.

A template has alternatives in brackets, `[a|b|]`, and `E` for a name. Never reads documents.
"""
# ruff: noqa: E501 -- templates of wordings read best one to a line

from __future__ import annotations

import random
import re
from collections.abc import Sequence

SEARCHES: dict[str, str] = {
    "continent": "continent of E",
    "capital": "capital of E",
    "population": "population of E",
    "area": "area of E",
    "currency": "currency of E",
    "phone": "calling code of E",
    "tld": "internet domain of E",
    "languages": "languages of E",
    "neighbours": "neighbours of E",
    "largest_city": "largest city of E",
    "big_cities": "big cities of E",
    "city_country": "country of E",
    "timezone": "time zone of E",
    "coordinates": "coordinates of E",
    "state": "state of E",
    "capital_of": "E is the capital of",
    "state_code": "postal code of E",
}
"""The search that a question about a relation asks for."""

_ASK = "[|please tell me |tell me |can you tell me |could you tell me |do you know |i would like to know |i want to know |say |so |and ]"
_IS = "[is|was|might be|would be]"

TEMPLATES: dict[str, Sequence[str]] = {
    "continent": (
        "[on|in|to] [which|what] continent [is|does|lies|would] E [|lie|belong|sit|located|found|situated|be|be found] [|to|on|in]",
        "[what|which] continent [is E [|in|on|part of|located in]|does E belong to|has E|contains E|includes E|holds E]",
        "[what|which] part of the world [is|does] E [|in|lie in|belong to]",
        "[where in the world|in which part of the world|whereabouts in the world] [is|lies|would one find|do i find] E",
        f"{_ASK}[the|which|what] continent [of E|E is [in|on]|E belongs to|that E lies in|where E is]",
        "is E [in|part of] [europe|asia|africa|south america|north america|oceania]",
        "E [lies on|is on|belongs to] [which|what] continent",
        "continent of E",
    ),
    "capital": (
        f"[what|which city|which town|which place] {_IS} [the|] capital [city |]of E",
        "[what's|whats|name|give|find] [me |]the capital [city |]of E",
        "E's capital [city |][|is what|is called what|is named what|is which city]",
        "[from which|from what] city is E [governed|ruled|run|led]",
        "[where|in which city|in what city] [does the government of E sit|is the government of E|is the seat of government of E|sits the government of E|do those who govern E sit]",
        "[which|what] city [governs|rules|is the seat of government of|serves as capital of|serves as the capital of|acts as the capital of|is E's capital|does E have as its capital|is capital in] E",
        f"{_ASK}[the capital of E|what the capital of E is|which city is the capital of E|what city the capital of E is]",
        "what is the name of [the capital of E|E's capital|the capital city of E|the city that is the capital of E]",
        "[what|which] capital [does|has] E [|have]",
        "capital of E",
        "seat of government of E",
    ),
    "population": (
        "how many [people|inhabitants|residents|citizens|persons|souls|humans|folks|folk|individuals] [live in|are there in|are living in|does E have in|reside in|call|dwell in|are in|has|inhabit|populate] E [|home]",
        "how many [people|inhabitants|residents|citizens] does E have",
        f"[what|how large|how big|how high] {_IS} the population [|size |figure |count |number ]of E",
        "[what's|whats|name|give|find] [me |]the population of E",
        "[how populous|how populated|how crowded] is E",
        "E's population [|is what|is how large]",
        "[what is|how big is|how large is] E's population",
        "[how big|how large] is E [by|in terms of] [population|people|inhabitants|number of people]",
        "what is the number of [people|inhabitants|residents|citizens] [in|of|living in] E",
        "[what|which] population [does|has] E [|have]",
        f"{_ASK}[the population of E|how many people live in E|how many inhabitants E has|how many live in E]",
        "to how many people is E home",
        "[number|count] of [people|inhabitants|residents] [in|of] E",
        "how many live in E",
        "population of E",
        "inhabitants of E",
    ),
    "area": (
        f"[what|how large|how big] {_IS} the [area|surface|land area|surface area|total area|size|territory] of E",
        "how [big|large|vast|extensive] is E [|in square kilometres|in square kilometers|in km2|by area|in area|in terms of area|in size|as a territory]",
        "how [many square kilometres|many square kilometers|many square km|much land|much area|much space|much territory|much ground] does E [cover|have|take up|occupy|measure|span|comprise|extend over]",
        "[what's|whats|name|give|find] [me |]the [area|size|surface area] of E",
        "[over|across] how many square [kilometres|kilometers|km] does E [extend|stretch|spread]",
        "E's [area|surface area|size|land area] [|is what|is how large]",
        "what is E's [area|surface area|size|land area]",
        "[what|which] area does E [cover|have|occupy|take up]",
        f"{_ASK}[the area of E|how large E is|how big E is|how many square kilometres E covers|the size of E|the surface area of E]",
        "area of E",
        "size of E in square kilometres",
    ),
    "currency": (
        f"[what|which] {_IS} the [currency|money|legal tender|unit of money|national currency|official currency] [of|in|used in] E",
        "[what|which] [currency|money|coin|coins|banknotes|notes|legal tender|kind of money|sort of money] [is used in|does one use in|do people use in|do they use in|is paid with in|does|do people in|do i need in|would i need in|is accepted in|circulates in|is valid in|will i need in|should i take to|do you need for|is spent in] E [|use|have|pay with|pay in]",
        "[what|how|with what|in what|in which currency|with which money] [do people|do they|does one|do i|can i|do you|would i|do shoppers|do locals] [pay [with |in |]in|pay in|pay for things in|buy things in] E",
        "[what's|whats|name|give|find] [me |]the currency of E",
        "E's currency [|is what|is called what]",
        "what is E's [currency|money]",
        "what [is the name of the money|is the money called|are prices in|is spent] in E",
        f"{_ASK}[the currency of E|what money is used in E|which currency E uses|what currency E has|what people pay with in E]",
        "[what|which] [money|currency] does E use",
        "if i travel to E what [money|currency] [should i bring|do i need|will i use]",
        "currency of E",
    ),
    "phone": (
        f"[what|which] {_IS} the [calling code|dialling code|dialing code|phone code|telephone code|phone prefix|country code|telephone prefix|international code|dial code|area code|phone country code|international dialling code|prefix for phone calls|international prefix] [of|for|to|in] E",
        "[which|what] [calling code|dialling code|dialing code|phone code|telephone code|phone prefix|country code|prefix|number|code|digits] [do i dial|does one dial|must i dial|do you dial|should i dial|do i use|is dialled|is used|do i need] [to call|to phone|to reach|to ring|for calls to|for|to telephone|when calling|for calling|before calling] [|someone in |people in |a friend in |somebody in ]E",
        "how do [i|you|we] [call|phone|ring|dial|telephone] E [|from abroad]",
        "with [what|which] [number|code|digits] do [telephone|phone] numbers [in|from|of] E [begin|start]",
        "[what|which digits|which code|which number|what code] do [telephone|phone] numbers [in|from|of] E [begin|start] with",
        "E's [calling code|dialling code|phone code|country calling code|phone prefix|telephone code]",
        "[what|which] [calling code|dialling code|phone code|phone prefix|telephone code] does E have",
        f"{_ASK}[the calling code of E|the phone code of E|the dialling code for E|what to dial for E|the telephone prefix of E]",
        "[calling code|phone code|dialling code|phone prefix|telephone code] of E",
    ),
    "tld": (
        f"[what|which] {_IS} the [internet domain|domain|top level domain|top-level domain|web domain|domain ending|internet ending|internet suffix|domain suffix|country domain|internet code|web suffix|internet country code|url ending] [of|for|in] E",
        "[which|what] [ending|suffix|domain|internet domain|top level domain|letters|internet ending|extension|web address ending] do [web sites|websites|web pages|internet addresses|web addresses|sites|domains|internet sites|urls|pages] [from|in|of|based in] E [have|use|carry|bear|end in|end with|show]",
        "[how|in what|with what|in which letters] do [web|internet|website|email] addresses [in|from|of] E end",
        "[what|which] do [web|internet|website] addresses [in|from|of] E end [in|with|on]",
        "E's [internet domain|domain|top level domain|top-level domain|web domain|web suffix]",
        "[what|which] [internet domain|top level domain|domain|domain ending|web suffix] does E [have|use]",
        "[what|which] [internet domain|domain|top level domain] [belongs to|stands for|is assigned to|is used by|is used in] E",
        f"{_ASK}[the internet domain of E|the top level domain of E|the web ending of E|the domain of E]",
        "[internet domain|top level domain|domain] of E",
    ),
    "languages": (
        "[what|which] [language|languages|tongues|tongue] [is|are] [spoken|used|talked|official|common] in E",
        "[what|which] [language|languages|tongue|tongues] [do people|do they|does one|do locals|do the inhabitants|do inhabitants|would i hear|will i hear|do you hear|can i hear|do the people|do its people] [speak |use |talk |]in E [|speak]",
        "[what|which] [language|languages] does E [have|speak|use]",
        "[what|which] [is|are] [the language|the languages|the official language|the official languages|the spoken languages|the main language|the national language] [of|in] E",
        "what do [people|they|the people|locals|inhabitants|citizens] [in|of] E speak",
        "[in what|in which] language [can i|do i|would i|should i] [talk|speak] [to people |with people |to locals |]in E",
        "E's [language|languages|spoken languages]",
        f"{_ASK}[the languages of E|what is spoken in E|which languages people speak in E|what language they speak in E]",
        "what is spoken in E",
        "languages of E",
        "[language|tongue] of E",
    ),
    "neighbours": (
        "[what|which] [countries|states|nations|lands|country] [border|borders|are next to|neighbour|are neighbours of|surround|touch|share a border with|lie next to|adjoin|are around|are beside|share borders with|have a border with|have a common border with|lie around|meet] E",
        "[what|which|who] are the [neighbours|neighbors|neighbouring countries|neighboring countries|adjacent countries|bordering countries|countries next to] [of |]E",
        "who are E's [neighbours|neighbors|neighbouring countries]",
        "[with|to] [which|what] countries does E [share a border|share borders|have a border|have borders|border|share its borders]",
        "[what|which] countries does E [border|touch|neighbour|share a border with|share borders with|adjoin|have as neighbours]",
        "[what's|what is] [next to|around|beside] E",
        "what does E border [|on]",
        "E [borders|neighbours] [|which countries|on what|whom]",
        f"{_ASK}[the neighbours of E|which countries border E|the countries around E|what countries E borders]",
        "[neighbours|neighbors|borders] of E",
    ),
    "largest_city": (
        f"[what|which|which city|which town] {_IS} the [largest|biggest|most populous|most populated|greatest|main] [city|town|metropolis|urban area] [in|of] E",
        "[what's|whats|name|give|find] [me |]the [largest|biggest|most populous] city [in|of] E",
        "[which|what] city [in|of] E [is the largest|is the biggest|has the most people|has most people|has the most inhabitants|is most populous|is the most populous|counts the most people|has the largest population|has the highest population]",
        "E's [largest|biggest|most populous] city",
        "what is E's [largest|biggest|most populous] city",
        f"{_ASK}[the largest city of E|the biggest city in E|which city is the largest in E|which city in E is biggest]",
        "where do most [townspeople|city dwellers] of E live",
        "[largest|biggest] city of E",
    ),
    "big_cities": (
        "[what|which] [are|are some] [other |further |some of the |the |]big cities [in|of] E",
        "[what|which] [are|are some] [other |further |some of the |the |]large cities [in|of] E",
        "[name|list|give me|tell me] [some|the|a few|other|several] [big|large|major|larger|bigger] [cities|towns] [in|of] E",
        "[what|which] [big|large|major|other|other large|other big] [cities|towns] [does E have|are in E|are there in E|lie in E|has E|exist in E]",
        "what [cities|towns] are there in E",
        "E's [big|large|major|largest|biggest] cities",
        "[which|what] are the [largest|biggest|major|main|principal] cities [in|of] E",
        "[big|large|major] cities [of|in] E",
    ),
    "city_country": (
        "[in|to] [which|what] country [is|does|lies|would] E [|lie|belong|located|found|situated|be found|be]",
        "[what|which] country [is E [|in|located in|part of|situated in|found in]|does E belong to|does E lie in|has E|contains E|includes E|holds E|is home to E]",
        "[where|whereabouts] [is|lies|would one find|do i find|can i find|is located|will i find] E [|located|found|situated|on the map]",
        "E is [in|located in|a city in|a city of|found in|part of] [which|what] country",
        "[which|what] country is the city [of |]E [in|located in|part of|found in]",
        "[in|of] [which|what] [country|nation|land|state] is E a city",
        f"{_ASK}[where E is|which country E is in|in what country E lies|the country of E|where E lies]",
        "country of E",
        "to which [nation|land] does E belong",
    ),
    "timezone": (
        f"[what|which] {_IS} the [time zone|timezone|local time zone] [of|in|for|used in] E",
        "[what|which] [time zone|timezone] [is E [in|on]|does E [use|have|follow|belong to|observe|lie in|keep]|is used in E|applies in E|applies to E|holds in E|do clocks in E follow|do they use in E|is followed in E|governs E]",
        "in [what|which] [time zone|timezone] [is|does|lies] E [|lie|located]",
        "E's [time zone|timezone]",
        "what is E's [time zone|timezone]",
        "[what|which] time [zone|] do [clocks|watches] [in|of] E [follow|show|keep|run on]",
        "[by|after] [what|which] [time zone|time] [are clocks in E set|do clocks in E go|do people in E set their clocks|does E live]",
        f"{_ASK}[the time zone of E|which time zone E is in|the timezone for E|what time zone E uses]",
        "[time zone|timezone] of E",
    ),
    "coordinates": (
        f"[what|which] {_IS} the [coordinates|latitude|longitude|latitude and longitude|geographical position|position|geographic coordinates|exact position|geographical coordinates|location on the map|geo coordinates|gps coordinates|longitude and latitude] of E",
        "[what|which] are the [coordinates|geographic coordinates|latitude and longitude|gps coordinates|geographical coordinates] [of|for] E",
        "at [what|which] [latitude|longitude|coordinates|position|degree|degrees|point|latitude and longitude|degrees north and east] [is|does|lies] E [|lie|located|found|situated]",
        "how far [north|south|east|west] [is|does|lies] E [|lie]",
        "where [exactly |precisely ][is|lies] E [on the map|on the globe|on a map|in degrees|]",
        "E's [coordinates|latitude|longitude|position on the map|geographical position]",
        "[what|which] [latitude|longitude|coordinates] does E have",
        f"{_ASK}[the coordinates of E|where E lies on the map|the latitude of E|the longitude of E|the position of E]",
        "[coordinates|latitude|longitude] of E",
    ),
    "state": (
        "[in|to] [which|what] [us state|american state|state of the usa|u s state|state of america|state of the us|federal state] [is|does|lies] E [|lie|belong|located|found]",
        "[in|to] [which|what] state [is|does|lies] [the city of |the american city |the city |]E [|lie|belong|located|found|situated]",
        "[what|which] [state|us state|american state] [is E [|in|located in|part of]|does E belong to|does E lie in|has E|contains E|is home to E|is the city of E in]",
        "E is in [which|what] [state|us state|american state]",
        "what is E's [state|us state]",
        f"{_ASK}[the state of E|which state E is in|what state E belongs to|the us state of E]",
        "state of E",
    ),
    "capital_of": (
        "[of|for] [which|what] [country|nation|land|state] is E the [capital|capital city|seat of government]",
        "[what|which] [country|nation|land] [is E [the capital|the capital city|capital] of|has E as [its |a |]capital|has its capital in E|is governed from E|is ruled from E|has E for a capital|calls E its capital|has the capital E|uses E as its capital]",
        "E is the capital of [which|what] [country|nation|land]",
        "E is the capital of what",
        "[which|what|whose] [government|country's government] sits in E",
        "whose capital is E",
        f"{_ASK}[which country has the capital E|of which country E is the capital|whose capital E is]",
        "[where|which country] is E the capital",
        "country whose capital is E",
        "country with the capital E",
    ),
    "state_code": (
        f"[what|which] {_IS} the [postal abbreviation|abbreviation|postal code|two-letter code|two letter code|state code|postal short form|short form|short code|usps code|letter code|postal letters] [of|for] E",
        "how is E [abbreviated|written on letters|shortened|abbreviated on letters|abbreviated by the post|written in addresses|shortened in addresses]",
        "how do [you|i|they|we] abbreviate E",
        "[which|what] [two letters|letters|abbreviation|postal abbreviation|postal code|code|two-letter code] [stand for|stands for|means|is used for|are used for|does E have|abbreviates|does the post use for] E",
        "E's [postal abbreviation|abbreviation|two-letter code|state code|postal code]",
        f"{_ASK}[the abbreviation of E|the postal abbreviation for E|how E is abbreviated]",
        "[abbreviation|postal code|postal abbreviation|two-letter code] of E",
    ),
}  # fmt: skip

UNKNOWN: Sequence[str] = (
    "[who|what|which|when|where|how] [is|was|are|were] [the|a|an|] X of E",
    "[what|which] X [does|did|has] E have",
    "who is the X of E",
    "who [founded|built|rules|governs|discovered|won|wrote|leads|runs|owns|designed|conquered] E",
    "when was E [founded|built|discovered|conquered|born|established]",
    "how [tall|old|deep|high|long|cold|warm|rich|expensive|safe|hot|far] is E",
    "what is the [weather|height|history|temperature|highest mountain|longest river|flag|anthem|religion|oldest building] [of|in|like in] E",
    "who [is|was] the [king|queen|president|leader|head|boss|ruler|owner] of E",
    "who X E",
    "when was E X",
    "[when|how|why|where] did E X",
    "how X is E",
    "what is E's X",
    "what is the X [in|of] E",
    "which X [is|are] in E",
    "how many X [does E have|are in E|are there in E]",
    "[name|tell me|give me] the X of E",
    "is there a X in E",
    "[what|which] X [is|are] E known for",
    "what X is E famous for",
    "X of E",
    "what are the X of E",
    "how much X does E have",
    "which X was born in E",
)
"""Questions about what no document may tell: the strange word X is a name to search for, like any other."""

_NOUNS: dict[str, str] = {
    "continent": "[continent|part of the world]",
    "capital": "[capital|capital city|seat of government]",
    "population": "[population|number of inhabitants|number of people|population figure]",
    "area": "[area|size|surface area|land area]",
    "currency": "[currency|money|unit of money]",
    "phone": "[calling code|phone code|dialling code|phone prefix|telephone code]",
    "tld": "[internet domain|top level domain|domain|domain ending]",
    "languages": "[language|languages|official language|spoken languages]",
    "neighbours": "[neighbours|neighbors|neighbouring countries|borders]",
    "largest_city": "[largest city|biggest city|most populous city]",
    "city_country": "country",
    "timezone": "[time zone|timezone]",
    "coordinates": "[coordinates|latitude and longitude|position on the map|latitude]",
    "state": "[state|us state]",
    "state_code": "[abbreviation|postal abbreviation|postal code]",
    "big_cities": "[big cities|large cities|major cities]",
}
_COORDINATED = (
    "[what|which] [is|are] the {0} and [the |][what the |]{1} of E",
    "{0} and {1} of E",
    "{0} [plus|&|and] {1} of E",
    "E {0} and {1}",
    "[tell me|give me|name|find|show me|say|list] [the |]{0} and [the |]{1} [of|for] E",
    "[what are|name|give me|tell me] E {0} and {1}",
    "[what|which] {0} and [what |which |]{1} does E have",
    "E : {0} and {1}",
    "for E [i need|give me|find] the {0} and the {1}",
    "[what is|what's|tell me] the {0} of E and [its|the|what is its|what is the] {1}",
    "[what is|name] the {0} and [what is |]the {1} in E",
    "i [need|want to know|would like to know] the {0} and {1} of E",
    "about E , what is the {0} and {1}",
)

_LIGHT = frozenset(
    [
        "what",
        "which",
        "how",
        "many",
        "live",
        "are",
        "there",
        "is",
        "the",
        "does",
        "do",
        "have",
        "people",
        "in",
        "of",
        "find",
        "tell",
        "me",
        "give",
        "name",
        "lie",
        "located",
        "found",
        "use",
        "pay",
        "spoken",
        "begin",
        "numbers",
        "cover",
        "would",
        "can",
        "i",
        "one",
        "please",
        "whereabouts",
        "inhabitants",
        "residents",
        "reside",
    ]
)
"""Words that a question can lose without losing its meaning."""

_BRACKETS = re.compile(r"\[([^\[\]]*)\]")
_TWO = (
    "{0} and {1}", "{0} ? {1}", "{0} , and {1}", "{0} and also {1}", "{0} ? and {1}", "{0} as well as {1}",
)  # fmt: skip
_SHARED = {
    "capital": ("what are the capitals of E and F", "name the capitals of E and F", "capitals of E and F", "which cities are the capitals of E and F"),
    "population": (
        "how many people live in E and in F", "which has more people , E or F", "populations of E and F", "does E have more inhabitants than F",
        "what are the populations of E and F", "how many people live in E and F", "is E more populous than F", "who has more inhabitants , E or F",
        "which is more populous , E or F", "compare the populations of E and F", "are there more people in E or in F",
    ),
    "area": (
        "which is larger , E or F", "is E larger than F", "how large are E and F", "which covers more square kilometres , E or F",
        "which country is bigger , E or F", "compare the areas of E and F", "what are the areas of E and F",
    ),
    "currency": (
        "what are the currencies of E and F", "which money is used in E and in F", "do E and F use the same currency", "do E and F have the same currency",
        "currencies of E and F", "do people in E and F pay with the same money",
    ),
    "continent": ("on which continents are E and F", "are E and F on the same continent", "do E and F lie on the same continent"),
    "phone": ("what are the calling codes of E and F", "what are the phone codes of E and F"),
    "tld": ("what are the internet domains of E and F",),
    "languages": ("which languages are spoken in E and F", "do people in E and F speak the same language", "what languages do they speak in E and in F"),
    "timezone": ("are E and F in the same time zone", "which time zones do E and F use", "what are the time zones of E and F"),
    "city_country": ("in which countries are E and F", "are E and F in the same country", "do E and F lie in the same country"),
    "neighbours": ("what are the neighbours of E and F", "which countries border E and F"),
    "largest_city": ("what are the largest cities of E and F", "name the biggest cities of E and F"),
    "state": ("in which states are E and F", "which states are E and F in"),
    "coordinates": ("what are the coordinates of E and F",),
}  # fmt: skip
"""Questions about two names: each is a search of its own."""


def expand(template: str, rng: random.Random) -> str:
    """A template with one alternative of each bracket, inner ones first."""
    while (found := _BRACKETS.search(template)) is not None:
        template = template[: found.start()] + rng.choice(found.group(1).split("|")) + template[found.end() :]
    return " ".join(template.split())


def vocabulary() -> set[str]:
    """Every word of the templates and of the searches."""
    templates = [*UNKNOWN, *SEARCHES.values()]
    templates += [*_NOUNS.values(), *_COORDINATED]
    for group in (*TEMPLATES.values(), *_SHARED.values()):
        templates += group
    found = set(re.findall(r"[a-z]+(?:['-][a-z]+)*", " ".join(templates).replace("'s", "")))
    return found | {"the", "country", "city", "of"}


def draw(rng: random.Random) -> tuple[str, str]:
    """A question in normal form, and the searches that it asks for, joined by ` ; `."""
    kind = rng.random()
    if kind < 0.01:
        question, search = "is e1 in e2", SEARCHES["city_country"].replace("E", "e1")
    elif kind < 0.62:
        question, search = _one(rng)
        question, search = question.replace("E", "e1"), search.replace("E", "e1")
    elif kind < 0.76:
        question, search = _unknown(rng)
    elif kind < 0.82:
        question, search = _coordinated(rng)
    elif kind < 0.91:
        relation = rng.choice(list(_SHARED))
        question = rng.choice(_SHARED[relation]).replace("E", "e1").replace("F", "e2")
        search = " ; ".join(SEARCHES[relation].replace("E", name) for name in ("e1", "e2"))
    else:
        (first, one), (second, two) = _one(rng), _one(rng)
        same = rng.random() < 0.35
        question = rng.choice(_TWO).format(first.replace("E", "e1"), second.replace("E", "e1" if same else "e2"))
        search = f"{one.replace('E', 'e1')} ; {two.replace('E', 'e1' if same else 'e2')}"
    return disturb(question, rng), search


def _one(rng: random.Random) -> tuple[str, str]:
    relation = rng.choice(list(TEMPLATES))
    return expand(rng.choice(TEMPLATES[relation]), rng), SEARCHES[relation]


def _coordinated(rng: random.Random) -> tuple[str, str]:
    """Two nouns of one name."""
    one, two = rng.sample(list(_NOUNS), 2)
    template = rng.choice(_COORDINATED).format(_NOUNS[one], _NOUNS[two])
    searches = f"{SEARCHES[one]} ; {SEARCHES[two]}"
    return expand(template, rng).replace("E", "e1"), searches.replace("E", "e1")


def _unknown(rng: random.Random) -> tuple[str, str]:
    """The strange word is a name if it stands in some document, and is numbered in the order of the question."""
    tokens = expand(rng.choice(UNKNOWN), rng).replace("'s", "").split()
    if "X" not in tokens:  # known words, but of nothing that is looked up
        return " ".join("e1" if token == "E" else token for token in tokens), "x of e1"
    if rng.random() < 0.6:
        return " ".join({"X": "x", "E": "e1"}.get(token, token) for token in tokens), "x of e1"
    order = [token for token in tokens if token in ("X", "E")]
    symbols = {token: f"e{n}" for n, token in enumerate(order, 1)}
    return " ".join(symbols.get(token, token) for token in tokens), f"{symbols['X']} of {symbols['E']}"


def disturb(question: str, rng: random.Random) -> str:
    """The question as people write it: with or without its mark, `the` or a strange word where none is needed."""
    tokens = question.replace("'s", "").split()
    if rng.random() < 0.12:
        tokens = [token for token in tokens if token != "the"]
    if rng.random() < 0.10:
        tokens.insert(rng.randrange(len(tokens) + 1), "x")
    if rng.random() < 0.15 and "x" not in tokens:
        at = rng.randrange(len(tokens))
        if tokens[at] in _LIGHT:
            tokens[at] = "x"
    if rng.random() < 0.10 and len(tokens) > 4:
        at = rng.randrange(len(tokens))
        if not re.match(r"e\d", tokens[at]):
            del tokens[at]
    if rng.random() < 0.10:
        at = rng.choice([n for n, token in enumerate(tokens) if re.match(r"e\d", token)] or [0])
        tokens[at:at] = rng.choice((["the"], ["the", "country"], ["the", "city", "of"], ["the", "city"], ["city"]))
    if rng.random() < 0.8:
        tokens.append("?")
    return " ".join(tokens)
