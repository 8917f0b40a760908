"""What the program can see of a candidate that went wrong, without knowing the right answer.

Pure functions over the question, the SQL and its rows. Never runs anything.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from examples.text_to_sql.database import Row, is_empty
from examples.text_to_sql.linking import Linked, unused

FAULTS = ("placeholder", "error", "unused", "missing", "kind", "echo", "empty")
"""An unknown placeholder, SQL that fails, a value left out, a word that nothing in the SQL stands for, an answer of a
wrong kind, one that says back a name of the question, nothing found. The first two end a candidate; the others make
it doubtful."""
TRUST = {"": 1.0, "unused": 0.3, "missing": 0.3, "kind": 0.2, "echo": 0.2, "empty": 0.1}
"""What a candidate counts in the vote, by its fault; others count nothing."""
_NUMBER_ASKED = re.compile(r"^(?:\w+ ){0,3}(?:how many|number of|count)\b(?!.* (?:and|with|names?)\b)")
_NAMES_ASKED = re.compile(
    r"^(?:which|what)(?: \w+[1-4])?(?: us)? "
    r"(?:country|countries|nations?|cit(?:y|ies)|towns?|states?|continents?|currency|currencies|time ?zones?)\b"
)
_CUES = [
    (re.compile(rf"\b(?:{words})\b"), re.compile(sql))
    for words, sql in [
        (r"averages?|mean|typical", r"\bAVG\(|COUNT\(\*\) /"),
        (r"percent|percentage|proportion", r"100\.0"),
        (r"alphabetical|alphabetically", r"ORDER BY \S*name"),
        (r"sorted|ordered|ranked|descending|ascending", r"ORDER BY"),
        (
            r"(?:in|for|per|of|on|each|by) (?:each|every|per) (?:us )?(?:country|continent|state|currency)",
            r"GROUP BY|COUNT\(DISTINCT",
        ),
        (r"capitals?", r"capital|MAX\(|MIN\("),
        (r"currency|currencies|money", r"currency"),
        (r"time ?zones?|timezones?", r"timezone"),
        (r"latitudes?", r"latitude"),
        (r"longitudes?", r"longitude"),
        (r"coordinates", r"latitude.*longitude"),
        (r"density|densely|densest|sparsely", r"/ \S*area_km2"),
        (r"sqkm|land area|surface area", r"area_km2"),
        (r"domains?|tlds?", r"tld"),
        (r"phone code|phone prefix|dialing|dialling|calling", r"phone_code"),
        (r"equator", r"latitude"),
        (r"northernmost|southernmost|northerly|southerly", r"latitude"),
        (r"westernmost|easternmost|westerly|easterly", r"longitude"),
        (r"continents?", r"contin"),
        (r"(?<!to )(?:largest|biggest|most populous|most people|highest|northernmost|easternmost)", r"DESC|MAX\("),
        (r"smallest|fewest|lowest|least populous|southernmost|westernmost", r"ORDER BY|MIN\("),
        (r"combined (?:population|area)|add up", r"SUM\(|COUNT\(|100\.0|\+"),
        (r"distinct|different|unique", r"DISTINCT"),
        (r"top number1", r"LIMIT|ORDER BY"),
    ]
]
"""Words that ask for something, and what SQL that does it has: right SQL of the generator's questions passes."""
_LITTLE_SENSE = re.compile(
    r"^SELECT (?:COUNT|SUM|AVG|MIN|MAX)\([^()]*\) FROM (?!\()(?:(?!GROUP BY).)* (?:ORDER BY|LIMIT) [^()]*$"
)
"""An order or a limit on a single number: it was meant for the rows before."""
_ECHOED = ("country", "state", "continent", "currency", "money", "tz", "tld", "phone")


def doubt(linked: Linked, written: str, rows: Sequence[Row]) -> str:
    """The fault of a candidate that ran: '' or one of `FAULTS`. `written` is its SQL with placeholders."""
    if unused(written, linked.values):
        return "unused"
    if is_empty(rows):
        return "empty"
    if _misses_a_word(linked.text, written):
        return "missing"
    if _wrong_kind(linked.text, rows):
        return "kind"
    return "echo" if _echoes(linked, rows) else ""


def _misses_a_word(text: str, written: str) -> bool:
    """Does the SQL lack what a word of the question asks for, or order a single number?"""
    return bool(_LITTLE_SENSE.match(written)) or any(
        asked.search(text) and not done.search(written) for asked, done in _CUES
    )


def _wrong_kind(text: str, rows: Sequence[Row]) -> bool:
    """Text where a number was asked for, or only numbers where names were."""
    texts = [isinstance(cell, str) for row in rows for cell in row]
    if _NUMBER_ASKED.match(text):
        return all(texts)
    return bool(_NAMES_ASKED.match(text)) and not any(texts)


def _echoes(linked: Linked, rows: Sequence[Row]) -> bool:
    """Is the answer one thing that the question named itself, and the only one of its kind there?"""
    if re.search(r"\b(?:codes?|abbreviat\w+|same)\b", linked.text):
        return False
    answers = {row for row in rows if len(row) == 1}
    if len(answers) != 1 or len(rows[0]) != 1:
        return False
    (answer,) = next(iter(answers))
    for value in linked.values.values():
        alone = sum(other.kind == value.kind for other in linked.values.values()) == 1
        names = {value.shown, value.literal.strip("'")}
        if alone and value.kind in _ECHOED and answer in names:
            return True
    return False
