from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
from pydantic import BaseModel

from tenuto import CallFailed, ForeignVar, InvalidResult, NoneSucceeded, Var, first, gather
from tenuto.builder import Builder
from tenuto.typed import Typed
from tenuto.var import expression, holds_vars, resolve
from tenuto.wire import Constant, DictExpr, ListExpr, Reference


class Sql(BaseModel):
    query: str
    score: float = 0.0


@dataclasses.dataclass
class Both:
    sql: Any
    rest: list[Any]


class Duo(NamedTuple):
    a: Any
    b: Any


class Values:
    """A program whose variables have values from the start; a missing one has failed."""

    def __init__(self, **values: Any) -> None:
        self.known = values
        self.builder = Builder()
        self.thread = 0
        self.asked: list[tuple[str, ...]] = []

    async def values(self, variables: Sequence[str]) -> list[Any]:
        self.asked.append(tuple(variables))
        for name in variables:
            if name not in self.known:
                raise CallFailed("tool_error", "it broke", name, 1)
        return [self.known[name] for name in variables]

    def model_name(self, stage: str, asked: str | None) -> str | None:
        return asked

    def var(self, name: str, annotation: Any = Any) -> Any:
        return Var(self, Reference(variable=name), Typed(annotation, name))


@pytest.fixture
def program() -> Values:
    return Values(sql={"query": "select 1", "score": 0.5}, rows=[1, 2, 3], text="hello")


def test_parts_are_references_with_longer_paths(program: Values) -> None:
    sql = program.var("sql", Sql)
    assert expression(sql.query, repr) == Reference(variable="sql", path=("query",))
    assert expression(program.var("rows", list[list[int]])[0][-1], repr) == Reference(variable="rows", path=(0, -1))
    assert repr(sql.query) == "<Var sql.query: str>"
    with pytest.raises(TypeError, match="Sql has no field 'querry'; its fields are: query, score"):
        _ = sql.querry


@pytest.mark.parametrize(
    "use",
    [
        bool,
        str,
        len,
        list,
        int,
        float,
        lambda v: v == 1,
        lambda v: v != 1,
        lambda v: v < 1,
        lambda v: v + 1,
        lambda v: 1 + v,
        lambda v: "".join([str(v)]),
        lambda v: f"{v}",
        lambda v: f"{v:>10}",
        lambda v: 1 in v,
        lambda v: [1, 2][v],
        lambda v: -v,
        lambda v: v @ v,
        lambda v: "yes" if v else "no",
        lambda v: [*v],
        lambda v: v(),
    ],
)
def test_using_a_value_that_is_not_there_says_await(program: Values, use: Any) -> None:
    with pytest.raises(TypeError, match="not there yet: `await` it first"):
        use(program.var("rows", list[int]))
    with pytest.raises(TypeError, match="not there yet: `await` it first"):
        use(gather([program.var("rows")]))


def test_vars_can_be_keys_and_are_no_sequence_of_attributes(program: Values) -> None:
    var = program.var("sql", Sql)
    assert {var: 1}[var] == 1
    assert repr(var) == "<Var sql: Sql>"
    assert not hasattr(var, "_anything")
    assert repr(copy.copy([var])) == "[<Var sql: Sql>]"
    with pytest.raises(TypeError, match="a part is named by a string or an index"):
        var[0:1]


def test_trees_become_expressions(program: Values) -> None:
    sql, rows = program.var("sql", Sql), program.var("rows", list[int])
    reference = Reference(variable="rows")
    tree = {"a": [1, rows], "b": (sql.query, "x"), "c": {"d": 1}}
    assert expression(tree, lambda value: value) == DictExpr(
        items={
            "a": ListExpr(items=(Constant(value=1), reference)),
            "b": ListExpr(items=(Reference(variable="sql", path=("query",)), Constant(value="x"))),
            "c": Constant(value={"d": 1}),
        }
    )
    assert expression(Both(sql=rows, rest=[]), lambda value: value) == DictExpr(
        items={"sql": reference, "rest": Constant(value=[])}
    )
    model = Sql.model_construct(query=sql.query, score=1.0)
    assert expression(model, lambda value: value) == DictExpr(
        items={"query": Reference(variable="sql", path=("query",)), "score": Constant(value=1.0)}
    )
    assert expression(gather([rows, [rows]]), repr) == ListExpr(items=(reference, ListExpr(items=(reference,))))
    with pytest.raises(TypeError, match="string keys, not 3"):
        expression({3: rows}, repr)


async def test_awaiting_gives_typed_values(program: Values) -> None:
    sql = program.var("sql", Sql)
    assert await sql == Sql(query="select 1", score=0.5)
    assert await sql == await sql
    assert await sql.query == "select 1"
    assert await program.var("rows", tuple[int, ...])[-1] == 3


async def test_trees_are_resolved_in_one_wait_and_keep_their_kinds(program: Values) -> None:
    sql, rows = program.var("sql", Sql), program.var("rows", list[int])
    untouched = object()
    found = await resolve({"a": [rows, rows[0]], "b": Duo(sql, 1), "c": Both(sql.query, [rows]), "d": untouched})
    assert found["a"] == [[1, 2, 3], 1]
    assert found["b"] == Duo(Sql(query="select 1", score=0.5), 1) and isinstance(found["b"], Duo)
    assert found["c"] == Both("select 1", [[1, 2, 3]])
    assert found["d"] is untouched
    assert program.asked == [("rows", "sql")]
    assert await resolve(Sql.model_construct(query=sql.query, score=sql.score)) == Sql(query="select 1", score=0.5)


async def test_a_missing_part_is_a_failed_call_and_a_wrong_type_an_invalid_result(program: Values) -> None:
    with pytest.raises(CallFailed, match="no_such_part") as failed:
        await program.var("sql")["nothing"]
    assert failed.value.call == "sql"
    with pytest.raises(InvalidResult, match="rows"):
        await program.var("rows", dict[str, int])


async def test_gather_keeps_order_and_kind(program: Values) -> None:
    rows, text = program.var("rows", list[int]), program.var("text", str)
    assert await gather([text, rows]) == ["hello", [1, 2, 3]]
    assert await gather(text, rows) == ("hello", [1, 2, 3])
    assert await gather(v for v in (rows, text)) == [[1, 2, 3], "hello"]
    assert await gather(gather([text]), rows) == (["hello"], [1, 2, 3])
    assert gather([text, rows])[1] is rows
    assert await gather([text, rows])[0] == "hello"
    with pytest.raises(TypeError, match="index 2 is beyond the 2 items"):
        gather([text, rows])[2]
    with pytest.raises(TypeError, match="is a list and has no field 'sort'"):
        _ = gather([text]).sort
    with pytest.raises(TypeError, match="at least one Var"):
        gather([])
    with pytest.raises(CallFailed, match="lost: tool_error: it broke"):
        await gather([text, program.var("lost")])
    with pytest.raises(ForeignVar, match="belongs to another program"):
        gather([text, Values(text="x").var("text")])


async def test_first_skips_failures_and_what_is_not_accepted(program: Values) -> None:
    lost, text, rows = program.var("lost"), program.var("text", str), program.var("rows")
    assert await first([lost, text]) == "hello"
    assert await first((v for v in (lost, text, rows)), accept=lambda value: isinstance(value, list)) == [1, 2, 3]
    with pytest.raises(NoneSucceeded, match="none of 3 calls gave a value: 1 failed, 2 refused") as none:
        await first([lost, text, rows], accept=lambda value: False)
    assert [error.call for error in none.value.errors] == ["lost"]
    with pytest.raises(NoneSucceeded, match="no calls"):
        await first([])
    with pytest.raises(ZeroDivisionError):
        await first([text], accept=lambda value: bool(1 / 0))


def test_what_holds_vars(program: Values) -> None:
    var = program.var("text")
    assert all(map(holds_vars, [var, [var], {"a": (1, {"b": var})}, Both(var, []), gather([var])]))
    assert not any(map(holds_vars, [1, "x", [], {"a": (1,)}, Both(1, []), Sql(query="")]))
