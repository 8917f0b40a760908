from __future__ import annotations

import dataclasses
import datetime
import enum
import math
from typing import Annotated, Any, Literal, NamedTuple, NewType

import pytest
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from tenuto.errors import DefinitionError, InvalidArgument, InvalidResult
from tenuto.typed import Typed
from tenuto.wire import JsonType, TextType

SqlText = NewType("SqlText", str)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Inner(BaseModel):
    value: int


class Model(BaseModel):
    name: str
    other_name: str = Field(alias="otherName")
    inner: Inner
    items: list[Inner] = []
    maybe: Inner | None = None


@dataclasses.dataclass
class Point:
    x: float
    label: str = ""


class Movie(TypedDict):
    title: str
    years: list[int]


class Pair(NamedTuple):
    left: int
    right: str


class Opaque:
    pass


@pytest.mark.parametrize("annotation", [str, SqlText, Annotated[str, "a note"], Annotated[str, Field(description="d")]])
def test_plain_strings_are_text(annotation: Any) -> None:
    assert Typed(annotation, "f").value_type("validation") == TextType()


@pytest.mark.parametrize(
    ("annotation", "schema"),
    [
        (int, {"type": "integer"}),
        (bool, {"type": "boolean"}),
        (list[str], {"type": "array", "items": {"type": "string"}}),
        (Literal["a", "b"], {"type": "string", "enum": ["a", "b"]}),
        (Colour, {"type": "string", "enum": ["red", "blue"], "title": "Colour"}),
        (dict[str, float], {"type": "object", "additionalProperties": {"type": "number"}}),
        (Any, {}),
        (None, {"type": "null"}),
        (Annotated[str, Field(max_length=3)], {"type": "string", "maxLength": 3}),
    ],
)
def test_everything_else_is_json_with_its_schema(annotation: Any, schema: dict[str, Any]) -> None:
    assert Typed(annotation, "f").value_type("serialization") == JsonType(json_schema=schema)


@pytest.mark.parametrize("annotation", [Model, list[Model], Point, Movie])
def test_what_a_model_shall_write_has_no_room_for_further_keys(annotation: Any) -> None:
    found = Typed(annotation, "f").value_type("validation")
    assert isinstance(found, JsonType)

    def objects(node: Any) -> list[dict[str, Any]]:
        if isinstance(node, list):
            return [found for item in node for found in objects(item)]
        if not isinstance(node, dict):
            return []
        own = [node] if "properties" in node and node.get("type") == "object" else []
        return own + [found for value in node.values() for found in objects(value)]

    assert objects(found.json_schema)
    assert all(node["additionalProperties"] is False for node in objects(found.json_schema))


def test_a_property_called_properties_is_no_schema_keyword() -> None:
    class Odd(BaseModel):
        properties: str
        default: int

    found = Typed(Odd, "f").value_type("validation")
    assert isinstance(found, JsonType)
    assert set(found.json_schema["properties"]) == {"properties", "default"}


def test_a_type_without_json_form_is_refused_by_name() -> None:
    with pytest.raises(DefinitionError, match=r"f\(x\): Opaque has no JSON form"):
        Typed(Opaque, "f(x)").schema("validation")


def test_values_are_validated_and_written_as_json() -> None:
    assert Typed(Model, "f").dump({"name": "a", "otherName": "b", "inner": {"value": "3"}}) == {
        "name": "a",
        "otherName": "b",
        "inner": {"value": 3},
        "items": [],
        "maybe": None,
    }
    assert Typed(Point, "f").dump(Point(1.5, "p")) == {"x": 1.5, "label": "p"}
    assert Typed(Colour, "f").dump(Colour.RED) == "red"
    assert Typed(datetime.date, "f").dump(datetime.date(2026, 11, 20)) == "2026-11-20"
    assert Typed(Any, "f").dump({"rows": (1, Colour.RED)}) == {"rows": [1, "red"]}


@pytest.mark.parametrize("value", [math.nan, math.inf, [None, -math.inf], Point(math.nan), "\ud800"])
def test_what_json_cannot_hold_is_refused(value: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"f: .*cannot be written as JSON"):
        Typed(Any, "f").dump(value)


def test_an_object_of_a_foreign_class_is_refused_by_name() -> None:
    with pytest.raises(InvalidArgument, match="Opaque"):
        Typed(Any, "f").dump({"deep": [Opaque()]})


def test_a_wrong_value_is_told_with_its_place() -> None:
    with pytest.raises(InvalidArgument, match=r"f\(m\): inner\.value: Input should be a valid integer"):
        Typed(Model, "f(m)").dump({"name": "a", "otherName": "b", "inner": {"value": "x"}})
    with pytest.raises(InvalidResult, match=r"g: \[1\]: Input should be a valid integer"):
        Typed(list[int], "g").load([1, "x"])


def part(annotation: Any, *keys: str | int) -> tuple[list[str | int], Any]:
    typed, path = Typed(annotation, "v"), []
    for key in keys:
        json_key, typed = typed.part(key)
        path.append(json_key)
    return path, typed.annotation


def test_parts_have_the_types_of_fields_and_items() -> None:
    assert part(Model, "inner", "value") == (["inner", "value"], int)
    assert part(Model, "other_name") == (["otherName"], str)
    assert part(Model, "items", 0, "value") == (["items", 0, "value"], int)
    assert part(Model, "maybe", "value") == (["maybe", "value"], int)
    assert part(Point, "x") == (["x"], float)
    assert part(Movie, "years", -1) == (["years", -1], int)
    assert part(Pair, "right") == ([1], str)
    assert part(Pair, 0)[0] == [0]
    assert part(dict[str, Inner], "any", "value") == (["any", "value"], int)
    assert part(tuple[int, str], 1) == ([1], str)
    assert part(tuple[int, ...], 7) == ([7], int)
    assert part(Any, "what", 3, "ever") == (["what", 3, "ever"], Any)
    assert part(int | str, "unknown") == (["unknown"], Any)


@pytest.mark.parametrize(
    ("annotation", "key", "message"),
    [
        (Model, "nam", "Model has no field 'nam'; its fields are: name, other_name, inner, items, maybe"),
        (Model, 0, "Model has no field 0"),
        (str, "upper", "str has no parts to take 'upper' from: `await` the Var first"),
        (int, 0, "int has no parts"),
        (Colour, "value", "Colour has no parts"),
        (Literal["a"], 0, "has no parts"),
        (list[int], "sort", "has no field 'sort': it takes an index"),
        (tuple[int, str], 2, "index 2 is beyond the 2 items of tuple"),
        (Movie, "year", "Movie has no field 'year'; its fields are: title, years"),
    ],
)
def test_a_part_that_cannot_be_is_told_at_once(annotation: Any, key: str | int, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Typed(annotation, "v").part(key)
