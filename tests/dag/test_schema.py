"""What is said about a schema is true of every value it admits: no false alarms, ever."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dag.schema import (
    ANY,
    ARRAY,
    INTEGER,
    NULL,
    OBJECT,
    TEXT,
    Absent,
    Node,
    SchemaError,
    conflict,
    describe_kinds,
    kind_of,
    known_keys,
    part,
    possible_kinds,
    required_keys,
    standalone,
    validator,
)
from tests.dag.strategies import fixed

KEYS = st.sampled_from(["a", "b", "c"])
LEAVES = st.sampled_from([None, True, False, 0, 1, -3, 1.0, 2.5, "", "x", "yes"])
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=5,
)
TYPES = st.sampled_from(["null", "boolean", "integer", "number", "string", "array", "object"])
DEFS = {
    "Row": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
    "Tree": {"type": "object", "properties": {"b": {"anyOf": [{"$ref": "#/$defs/Tree"}, {"type": "null"}]}}},
    "Loop": {"anyOf": [{"$ref": "#/$defs/Loop"}, {"type": "string"}]},
}
REFERENCES = st.sampled_from([{"$ref": f"#/$defs/{name}"} for name in DEFS])


def _schemas(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    properties = st.dictionaries(KEYS, inner, max_size=2)
    objects = st.fixed_dictionaries(
        {"type": st.just("object")},
        optional={
            "properties": properties,
            "required": st.lists(KEYS, max_size=2, unique=True),
            "additionalProperties": st.booleans() | inner,
            "patternProperties": st.just({"^c": True}),
        },
    )
    arrays = st.fixed_dictionaries(
        {"type": st.just("array")},
        optional={
            "items": inner,
            "prefixItems": st.lists(inner, min_size=1, max_size=2),
            "maxItems": st.integers(0, 3),
        },
    )
    combined = st.fixed_dictionaries(
        {},
        optional={
            "anyOf": st.lists(inner, min_size=1, max_size=3),
            "oneOf": st.lists(inner, min_size=1, max_size=2),
            "allOf": st.lists(inner, min_size=1, max_size=2),
            "not": inner,
            "type": TYPES | st.lists(TYPES, min_size=1, max_size=3, unique=True),
        },
    )
    return objects | arrays | combined


BASES = st.one_of(
    st.booleans(),
    TYPES.map(lambda name: {"type": name}),
    st.lists(LEAVES, min_size=1, max_size=3).map(lambda values: {"enum": values}),
    LEAVES.map(lambda value: {"const": value}),
    REFERENCES,
)
SCHEMAS = st.recursive(BASES, _schemas, max_leaves=6).map(lambda schema: {"$defs": DEFS, "allOf": [schema]})


def admits(node: Node, value: Any) -> bool:
    return validator(standalone(node)).is_valid(value)


@fixed
@given(SCHEMAS, st.lists(VALUES, min_size=5, max_size=15))
def test_a_value_that_the_schema_admits_is_of_a_possible_kind(schema: dict[str, Any], values: list[Any]) -> None:
    node = Node(schema, schema)
    kinds = possible_kinds(node)
    assert all(kinds & kind_of(value) for value in values if admits(node, value))


@fixed
@given(SCHEMAS, st.lists(VALUES, min_size=5, max_size=15))
def test_a_part_of_an_admitted_value_is_never_called_absent_and_fits_its_schema(
    schema: dict[str, Any], values: list[Any]
) -> None:
    node = Node(schema, schema)
    for value in values:
        if not admits(node, value):
            continue
        steps: list[tuple[str | int, Any]] = []
        if isinstance(value, dict):
            steps = [*value.items()]
            assert set(required_keys(node)) <= set(value)
        elif isinstance(value, list):
            steps = [*enumerate(value), *((index - len(value), item) for index, item in enumerate(value))]
        for step, item in steps:
            found = part(node, step)
            assert isinstance(found, Node), (value, step, found)
            assert admits(found, item), (value, step, found)


@fixed
@given(SCHEMAS, SCHEMAS, st.lists(VALUES, min_size=5, max_size=25))
def test_schemas_in_conflict_have_no_value_in_common(
    produced: dict[str, Any], wanted: dict[str, Any], values: list[Any]
) -> None:
    if conflict(Node(produced, produced), Node(wanted, wanted)):
        both = [v for v in values if admits(Node(produced, produced), v) and admits(Node(wanted, wanted), v)]
        assert not [value for value in both if "[]" not in repr(value)]  # lists of misfits: the one liberty taken


def of(**schema: Any) -> Node:
    return Node(schema, schema)


STRINGS, INTEGERS = of(type="array", items={"type": "string"}), of(type="array", items={"type": "integer"})
ROW = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
IN_CONFLICT = [
    (of(type="string"), of(type="integer"), "is text where an integer is expected"),
    (of(type=["string", "null"]), of(type="object"), "is null or text where an object is expected"),
    (of(type="number", enum=[1.5, 2.5]), of(type="integer"), "is a number where an integer is expected"),
    (STRINGS, INTEGERS, "has items, each of which is text where an integer is expected"),
    (of(**ROW), of(required=["b"]), "never has the key 'b', which is required"),
    (of(type="object", required=["b"]), of(**ROW), "always has the key 'b', which is not allowed"),
    (of(**ROW), of(type="object", properties={"a": {"type": "string"}}), "has at /a a value that is an integer"),
    (of(enum=["x", "y"]), of(enum=["z"]), "is one of 'x', 'y' where one of 'z' is expected"),
    (
        of(anyOf=[{"type": "string"}, {"$ref": "#/$defs/N"}], **{"$defs": {"N": {"type": "null"}}}),
        of(type="array"),
        "null or text",
    ),
]
COMPATIBLE = [
    (of(type="integer"), of(type="number")),
    (of(type="number"), of(type="integer")),  # 1.0 is an integer
    (of(), of(type="string")),
    (of(type="string"), of()),
    (of(type=["string", "null"]), of(type="string")),
    (of(type="object"), of(required=["b"])),
    (of(type="object", properties={"a": {"type": "string"}}), of(type="object", properties={"a": {"type": "integer"}})),
    (of(type="array"), INTEGERS),
    (of(enum=["x", 1]), of(enum=[1.0])),
    (of(anyOf=[{"type": "string"}, {"type": "integer"}]), of(oneOf=[{"type": "integer"}, {"type": "object"}])),
    (of(**{"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}}), of(type="string")),
    (of(**{"$ref": "#elsewhere"}), of(type="string")),
    (Node(False, False), of(type="string")),  # nothing is ever produced: nothing can be wrong
]


@pytest.mark.parametrize(("produced", "wanted", "reason"), IN_CONFLICT)
def test_sure_conflicts_are_told(produced: Node, wanted: Node, reason: str) -> None:
    assert reason in (conflict(produced, wanted) or "")


@pytest.mark.parametrize(("produced", "wanted"), COMPATIBLE)
def test_what_might_fit_is_accepted(produced: Node, wanted: Node) -> None:
    assert conflict(produced, wanted) is None


def test_a_key_that_a_pattern_may_admit_is_no_absent_part() -> None:
    node = of(type="object", properties={}, patternProperties={"^b": {}}, additionalProperties=False)
    assert isinstance(part(node, "b1"), Node)


def test_a_question_that_leads_in_a_circle_leaves_everything_possible() -> None:
    loop = {"$ref": "#/$defs/Loop", "$defs": DEFS}
    assert possible_kinds(Node(loop, loop)) == ANY


def test_recursive_alternatives_do_not_explode() -> None:
    branches = [{"$ref": "#/$defs/A"}] * 10
    bomb = Node({"$ref": "#/$defs/A"}, {"$defs": {"A": {"anyOf": branches, "allOf": branches}}})
    start = time.process_time()
    assert possible_kinds(bomb) == ANY
    assert isinstance(part(bomb, "x"), Node)
    assert conflict(bomb, bomb) is None
    assert time.process_time() - start < 1.0


@pytest.mark.parametrize(
    ("schema", "where", "message"),
    [
        ({"type": "strin"}, "/type", "strin"),
        ({"properties": {"a/b": {"type": "text"}}}, "/properties/a~1b/type", "text"),
        ({"$ref": "http://example.com/schema"}, "", "outside the schema"),
        ({"$ref": "file:///etc/passwd"}, "", "outside the schema"),
        ({"$ref": "#/$defs/Nothing"}, "", "$defs/Nothing"),
        ({"pattern": "("}, "/pattern", "regex"),
        ({"const": float("nan")}, "", "not JSON"),
        ({"const": object()}, "", "not JSON"),
    ],
)
def test_what_is_no_schema_is_refused_with_its_place(schema: dict[str, Any], where: str, message: str) -> None:
    with pytest.raises(SchemaError) as caught:
        validator(schema)
    assert caught.value.pointer == where
    assert message in str(caught.value)


def test_a_schema_nested_beyond_reason_is_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"items": deep}
    with pytest.raises(SchemaError):
        validator(deep)


def test_a_hostile_pattern_costs_milliseconds() -> None:
    checker = validator({"pattern": "^(a|a)*(?=c)b$"})
    start = time.process_time()
    assert not checker.is_valid("a" * 60)
    assert time.process_time() - start < 1.0


def test_keys_and_kinds_in_words() -> None:
    node = of(
        **{"anyOf": [{"$ref": "#/$defs/A"}, {"properties": {"y": {}}}], "$defs": {"A": {"properties": {"x": {}}}}}
    )
    assert set(known_keys(node)) == {"x", "y"}
    assert describe_kinds(ANY) == "any value"
    assert describe_kinds(0) == "nothing"
    assert describe_kinds(NULL | TEXT | ARRAY) == "null or text or a list"
    assert describe_kinds(INTEGER | OBJECT) == "an integer or an object"


@pytest.mark.parametrize(
    ("schema", "step", "reason"),
    [
        ({"type": "string"}, "x", "is text, which has no key 'x'"),
        ({"type": "object"}, 0, "is an object, which has no index 0"),
        (ROW, "b", "has no such key"),
        ({"prefixItems": [{}], "items": False}, 1, "is a list of at most 1"),
        ({"type": "array", "maxItems": 2}, 2, "is a list of at most 2"),
        ({"anyOf": [ROW, {"type": "null"}]}, "b", "has no such key"),
    ],
)
def test_parts_that_no_value_has(schema: dict[str, Any], step: str | int, reason: str) -> None:
    assert part(Node(schema, schema), step) == Absent(reason)
