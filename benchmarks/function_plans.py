"""Plans as planners write them, and plans gone wrong, drawn from a seed. Used by `benchmarks.functions` and its tests.

Owns texts only: `plan` writes sound ones of every form that the grammar knows, `malformed` breaks them as models do.
"""

from __future__ import annotations

import json
from itertools import pairwise
from random import Random

from dag.plan import PlanDiagnostic, PlanEvent, PlannedCall, PlannedJoin, PlanParser

TOOLS = ("search", "math", "lookup", "my.tool", "fetch_page")
WORDS = (
    "population",
    "of (the) city",
    "it's",
    'a "quoted" word',
    "costs $5",
    "naïve 東京 🌍",
    "a, b",
    "x=1",
    "#5",
    "1. no",
)


def plan(rng: Random, calls: int = 6) -> str:
    """A sound plan of `calls` calls, in any of the forms that planners write."""
    lines: list[str] = []
    for number in range(1, calls + 1):
        if rng.random() < 0.2:
            lines.append(f"Thought: {rng.choice(('next', 'I need (2) and $1', '3. not a call'))}")
        bullet = rng.choice(("", "", "", "- ", "  "))
        call = f"{bullet}{number}. {rng.choice(TOOLS)}({_arguments(rng, number)})"
        tail = rng.choice(("", "", "", " # note (1)", "  "))
        if lines and rng.random() < 0.15 and not lines[-1].startswith("Thought") and "#" not in lines[-1]:
            lines[-1] += rng.choice(("  ", "; ", ", ")) + call.lstrip("- ") + tail
        else:
            lines.append(call + tail)
    waits = rng.choice(("", "", f"${calls}"))
    lines.append(rng.choice(("", f"{calls + 1}. ")) + f"join({waits})" + rng.choice(("", "<END_OF_PLAN>", "\n")))
    return "\n".join(lines)


def _arguments(rng: Random, number: int) -> str:
    positional = [_value(rng, number, 0) for _ in range(rng.randrange(3))]
    keywords = [f"{name}={_value(rng, number, 0)}" for name in rng.sample(("query", "k", "given"), rng.randrange(3))]
    glue = rng.choice((", ", ",", ",\n    "))
    return glue.join([*positional, *keywords])


def _value(rng: Random, number: int, depth: int) -> str:
    kind = rng.randrange(9 if depth < 3 else 6)
    if kind == 0:
        return json.dumps(rng.choice(WORDS), ensure_ascii=rng.random() < 0.5)
    if kind == 1:
        return rng.choice(("1", "-2.5", "1e3", "true", "None", "False", "0"))
    if kind in (2, 3) and number > 1:
        return rng.choice(("${n}", "${n}.price", '${n}["a b"][0]', "${{{n}}}", "${{{n}.x[1]}}")).format(
            n=rng.randrange(1, number)
        )
    if kind == 4 and number > 1:
        return rng.choice(('"${n}"', '"see ${n} and ${{{n}.price}}"', "'${n}.price'")).format(
            n=rng.randrange(1, number)
        )
    if kind == 5:
        return rng.choice(("'it\\'s'", '"""three "quotes" here"""', '""', '"line\\nbreak"', "'a \"b\"'"))
    if kind == 6:
        return "[" + ", ".join(_value(rng, number, depth + 1) for _ in range(rng.randrange(4))) + "]"
    if kind == 7:
        items = (f'"k{i}": {_value(rng, number, depth + 1)}' for i in range(rng.randrange(3)))
        return "{" + ", ".join(items) + "}"
    return json.dumps("text " * rng.randrange(4))


def malformed(rng: Random) -> str:
    """A plan gone wrong in one to three of the ways that models and streams know."""
    text = plan(rng, rng.randrange(2, 7))
    for _ in range(rng.randrange(1, 4)):
        text = _BREAKS[rng.randrange(len(_BREAKS))](rng, text)
    return text


def _drop(rng: Random, text: str, of: str) -> str:
    places = [index for index, char in enumerate(text) if char in of]
    if not places:
        return text
    place = rng.choice(places)
    return text[:place] + text[place + 1 :]


def _insert(rng: Random, text: str, what: str) -> str:
    place = rng.randrange(len(text) + 1)
    return text[:place] + what + text[place:]


_BREAKS = (
    lambda rng, text: _drop(rng, text, ")"),
    lambda rng, text: _drop(rng, text, "("),
    lambda rng, text: _drop(rng, text, "\"'"),
    lambda rng, text: _drop(rng, text, "[]{},:"),
    lambda rng, text: text[: rng.randrange(len(text) + 1)],
    lambda rng, text: text.replace("2. ", "1. ", 1),
    lambda rng, text: text.replace("1. ", "9. ", 1),
    lambda rng, text: text.replace("$1", "$77", 1),
    lambda rng, text: text.replace("join", "joined", 1),
    lambda rng, text: text + "\n8. search('after the join')",
    lambda rng, text: _insert(
        rng, text, rng.choice((")", "(", '"', "'", "$", "\\", "#", "\n", "]", "{", "\0", "\u2028"))
    ),
    lambda rng, text: _insert(rng, text, rng.choice(("\nSure, here is the plan:\n", "\n3. search without brackets\n"))),
    lambda rng, text: text.replace('"', "\u201c", 1),
    lambda rng, text: text.replace(". ", " ", 1),
    lambda rng, text: text.replace("search(", "search($1 foo, ", 1),
    lambda rng, text: "(" * 300 + text if rng.random() < 0.3 else text.replace("(", "([" * 200, 1),
)


def read(text: str, *cuts: int) -> list[PlanEvent]:
    """The events of a text, pushed in the pieces between the cuts."""
    parser = PlanParser()
    events: list[PlanEvent] = []
    edges = [0, *sorted(cuts), len(text)]
    for start, end in pairwise(edges):
        events.extend(parser.feed(text[start:end]))
    return events + parser.close()


def silent_drops(text: str, events: list[PlanEvent]) -> list[str]:
    """Pieces of a plan that no event tells of: neither blank nor comment, in no event's span, no thought carried on.

    A thought before a call that could not be read is lost with it, and told by that call's fault.
    """
    told = bytearray(len(text))
    for event in events:
        about = event.about if isinstance(event, PlanDiagnostic) else event.span
        told[about.start : about.end] = b"\1" * (about.end - about.start)
        told[event.span.start : event.span.end] = b"\1" * (event.span.end - event.span.start)
    thoughts = "\n".join(event.thought or "" for event in events if isinstance(event, PlannedCall | PlannedJoin))
    drops: list[str] = []
    at = 0
    for line in text.split("\n"):
        untold = "".join(char for char, seen in zip(line, told[at : at + len(line)], strict=True) if not seen)
        left = untold.strip(" \t\r,;-*•`\x0b\x0c\u2028")
        thought = left.partition(":")[2].strip() if left.lower().startswith("thought") else None
        known = not left or left.startswith("#") or left == "<END_OF_PLAN>"
        if not known and (thought is None or (thought not in thoughts and not text[at + len(line) :].strip())):
            drops.append(left)
        at += len(line) + 1
    return drops
