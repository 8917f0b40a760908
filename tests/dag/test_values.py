"""Values: checked, projected, put into arguments and prompts; never expanded twice."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dag import (
    PathError,
    SchemaError,
    UnwrittenVariable,
    as_text,
    check_value,
    project,
    render,
    resolve,
    value_faults,
)
from tenuto.wire import (
    Constant,
    DictExpr,
    Expr,
    JsonType,
    ListExpr,
    Reference,
    TextPart,
    TextType,
    ValueType,
    VariablePart,
)
from tests.dag.strategies import fixed

TEXT, ANYTHING = TextType(), JsonType()
ROW = JsonType(
    json_schema={
        "type": "object",
        "properties": {"name": {"type": "string"}, "tags": {"type": "array", "items": {"type": "string"}}},
        "required": ["name"],
    }
)
LISTS = JsonType(json_schema={"$ref": "#/$defs/L", "$defs": {"L": {"type": "array", "items": {"$ref": "#/$defs/L"}}}})
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def paths(value: Any) -> list[tuple[tuple[str | int, ...], Any]]:
    """Every path into a value with the part it leads to."""
    found: list[tuple[tuple[str | int, ...], Any]] = [((), value)]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found.extend(((key, *path), part) for path, part in paths(item))
    return found


@pytest.mark.parametrize(
    ("type", "value"),
    [
        (TEXT, ""),
        (TEXT, "{{x}} $1 é 𝕏"),
        (ANYTHING, None),
        (ANYTHING, {"a": [1, 2.5, True, None, {}]}),
        (ANYTHING, 10**300),
        (ROW, {"name": "x", "tags": ["y"], "more": 1}),
    ],
)
def test_good_values(type: ValueType, value: Any) -> None:
    assert check_value(type, value) is None


@pytest.mark.parametrize(
    ("type", "value", "message"),
    [
        (TEXT, 3, "at (the whole value): a number where text is expected"),
        (TEXT, None, "at (the whole value): null where text is expected"),
        (TEXT, ["x"], "at (the whole value): a list where text is expected"),
        (TEXT, "\ud800", "at (the whole value): character 0 is a lone surrogate"),
        (ROW, {"tags": ["a", 3, "b", None]}, 'at (the whole value): "name" is a required property'),
        (ROW, {"tags": ["a", 3, "b", None]}, 'at /tags/1: 3 is not of type "string"; at /tags/3: null'),
        (ROW, "text", "at (the whole value): "),
        (ANYTHING, float("nan"), "at (the whole value): nan is no JSON number"),
        (ANYTHING, {"a/b": [0, float("inf")]}, "at /a~1b/1: inf is no JSON number"),
        (ANYTHING, {"a": {1: 2}}, "at /a: key 1 is no text"),
        (ANYTHING, {"a": [b"x"]}, "at /a/0: a bytes is no JSON value"),
        (ANYTHING, [(1, 2)], "at /0: a tuple is no JSON value"),
        (ANYTHING, ["\udfff"], "at /0: character 0 is a lone surrogate"),
        (ANYTHING, {"\udfff": 1}, "at (the whole value): key '\\udfff' holds a lone surrogate"),
    ],
)
def test_bad_values_are_told_with_their_place(type: ValueType, value: Any, message: str) -> None:
    assert message in (check_value(type, value) or "")


def test_a_value_nested_beyond_reason_is_told() -> None:
    deep: Any = []
    for _ in range(199):
        deep = [deep]
    assert check_value(LISTS, deep) is None
    for _ in range(100_000):
        deep = [deep]
    assert check_value(LISTS, deep) == "at (the whole value): nested more than 200 deep"


def test_a_message_stays_short_whatever_the_value() -> None:
    long = {"name": ["x" * 100_000] * 3, "tags": list(range(10_000))}
    assert len(check_value(ROW, long) or "") < 3000
    assert "more" in (check_value(ROW, long) or "")


def test_a_type_that_is_no_schema_is_refused() -> None:
    with pytest.raises(SchemaError):
        check_value(JsonType(json_schema={"type": "thing"}), 1)


@fixed
@given(VALUES)
def test_json_values_are_values(value: Any) -> None:
    assert value_faults(ANYTHING, value) == []
    assert json.loads(json.dumps(value)) == value


@fixed
@given(VALUES)
def test_every_path_of_a_value_leads_to_its_part(value: Any) -> None:
    for path, part in paths(value):
        assert project("v", path, {"v": value}) is part
        assert resolve(Reference(variable="v", path=path), {"v": value}) is part


@fixed
@given(VALUES, st.data())
def test_a_path_that_leads_nowhere_names_the_step(value: Any, data: st.DataObject) -> None:
    path, part = data.draw(st.sampled_from(paths(value)))
    steps: st.SearchStrategy[str | int]
    if isinstance(part, dict):
        steps = st.one_of(st.text().filter(lambda key: key not in part), st.integers(0, 3))
    elif isinstance(part, list):
        steps = st.sampled_from((len(part), -len(part) - 1, "key"))
    else:
        steps = st.sampled_from((0, "key"))
    wrong = data.draw(steps)
    with pytest.raises(PathError) as caught:
        project("v", (*path, wrong, "further"), {"v": value})
    assert caught.value.variable == "v"
    assert caught.value.pointer.count("/") == len(path) + 1
    assert caught.value.path == (*path, wrong, "further")


def test_path_errors_say_what_is_there() -> None:
    values = {"v": {"rows": [{"name": "x"}], "a/b": None}}
    cases: dict[tuple[str | int, ...], tuple[str, str]] = {
        ("row",): ("/row", "no key 'row' (it has 'rows', 'a/b')"),
        ("rows", 1): ("/rows/1", "index 1 of a list of 1"),
        ("rows", "name"): ("/rows/name", "a list has no key 'name'"),
        ("rows", 0, "name", 0): ("/rows/0/name/0", "text has no index 0"),
        ("a/b", "x"): ("/a~1b/x", "null has no key 'x'"),
    }
    for path, (where, reason) in cases.items():
        with pytest.raises(PathError) as caught:
            project("v", path, values)
        assert (caught.value.pointer, caught.value.reason) == (where, reason)
        assert str(caught.value) == f"variable 'v' has no part at {where}: {reason}"


def test_expressions() -> None:
    expr: Expr = DictExpr(
        items={
            "all": ListExpr(
                items=(Reference(variable="a"), Constant(value={"ref": "a"}), Reference(variable="b", path=(-1,)))
            ),
            "none": Constant(value=None),
        }
    )
    assert resolve(expr, {"a": "x", "b": [1, 2]}) == {"all": ["x", {"ref": "a"}, 2], "none": None}
    with pytest.raises(UnwrittenVariable, match="'b' has no value yet"):
        resolve(expr, {"a": "x"})


@fixed
@given(
    st.lists(st.text() | st.sampled_from(["{{other}}", "{other}", "$other", "$1", "%s", "<|im_end|>", "\\1"])), VALUES
)
def test_a_value_in_a_prompt_is_never_expanded_again(texts: list[str], value: Any) -> None:
    """Whatever a value looks like, the prompt is the plain concatenation."""
    values: dict[str, Any] = {f"v{index}": text for index, text in enumerate(texts)}
    values["other"] = value
    parts: list[TextPart | VariablePart] = []
    expected = ""
    for index, text in enumerate(texts):
        parts += [TextPart(text=text), VariablePart(variable=f"v{index}"), VariablePart(variable="other")]
        expected += text + text + as_text(value)
    assert render(parts, values) == expected


def test_a_prompt_takes_text_as_it_is_and_json_compactly_in_its_own_order() -> None:
    values = {"rows": {"b": [1, 2.5, None, True], "a": "é{{rows}}"}, "text": 'say "hi"\n'}
    parts: list[TextPart | VariablePart] = [
        TextPart(text="<"),
        VariablePart(variable="text"),
        VariablePart(variable="rows"),
        VariablePart(variable="rows", path=("a",)),
        VariablePart(variable="rows", path=("b", 0)),
        TextPart(text=">{{text}}"),
    ]
    assert render(parts, values) == '<say "hi"\n{"b":[1,2.5,null,true],"a":"é{{rows}}"}é{{rows}}1>{{text}}'
    with pytest.raises(PathError, match="no part at /c"):
        render([VariablePart(variable="rows", path=("c",))], values)
    with pytest.raises(UnwrittenVariable):
        render([VariablePart(variable="nothing")], values)
