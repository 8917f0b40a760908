from __future__ import annotations

import pytest

from tenuto.errors import DefinitionError
from tenuto.template import Hole, check, parse


def test_texts_and_holes_come_in_order() -> None:
    assert parse("Schema: {{schema}}\nQ: {{ question }}\nSQL:", "f") == (
        "Schema: ",
        Hole("schema"),
        "\nQ: ",
        Hole("question"),
        "\nSQL:",
    )


@pytest.mark.parametrize(
    ("template", "parts"),
    [
        ("", ()),
        ("no holes, { braces } and }} stay", ("no holes, { braces } and }} stay",)),
        ('{"a": {"b": 1}}', ('{"a": {"b": 1}}',)),
        ("{{a}}{{b}}{{a}}", (Hole("a"), Hole("b"), Hole("a"))),
        ("{{{{ literal }} {{a}}", ("{{ literal }} ", Hole("a"))),
        ("{{größe}}", (Hole("größe"),)),
    ],
)
def test_what_is_a_hole_and_what_is_text(template: str, parts: tuple[str | Hole, ...]) -> None:
    assert parse(template, "f") == parts


@pytest.mark.parametrize("bad", ["{{", "{{}}", "{{a.b}}", "{{ 1a }}", "{{a}", "{{a b}}", '{{"x": 1}}'])
def test_a_broken_placeholder_is_located(bad: str) -> None:
    with pytest.raises(DefinitionError, match=r"f: prompt, line 2, column 4: '\{\{.*is no placeholder.*\{\{\{\{"):
        parse(f"first\nab {bad}", "f: prompt")


def test_holes_and_parameters_must_agree() -> None:
    check(parse("{{a}} {{b}}", "f"), ("a", "b"), "f")
    with pytest.raises(DefinitionError, match=r"f: \{\{c\}\} is not among the function's parameters \(a, b\)"):
        check(parse("{{a}} {{b}} {{c}}", "f"), ("a", "b"), "f")
    with pytest.raises(DefinitionError, match=r"f: parameter b is never used in the prompt: place it, or drop"):
        check(parse("{{a}}", "f"), ("a", "b"), "f")


def test_single_braces_are_recognised_as_the_usual_slip() -> None:
    with pytest.raises(DefinitionError, match=r"write \{\{name\}\} with two braces"):
        check(parse("Hello {name}", "f"), ("name",), "f")
