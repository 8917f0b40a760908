"""Safe SQL, comparison of results, and the geography database itself."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from examples.text_to_sql.database import (
    NotOneSelect,
    QueryFailed,
    QueryTooSlow,
    check_select,
    is_empty,
    run_sql,
    vote_key,
)
from examples.text_to_sql.evaluate import execution_match, same_result
from examples.text_to_sql.geography import COLUMNS, build


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("geography") / "geography.db")


def test_the_database_has_the_schema_and_no_empty_text(database: Path) -> None:
    connection = sqlite3.connect(database)
    for table, columns in COLUMNS.items():
        found = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        assert tuple(found) == columns
    assert connection.execute("SELECT COUNT(*) FROM countries WHERE capital = '' OR currency = ''").fetchone() == (0,)
    assert connection.execute(
        "SELECT COUNT(*) FROM cities WHERE country NOT IN (SELECT code FROM countries)"
    ).fetchone() == (0,)
    assert connection.execute("SELECT COUNT(*) FROM cities WHERE state IS NOT NULL AND country <> 'US'").fetchone() == (
        0,
    )
    connection.close()


def test_building_twice_keeps_the_file_and_a_broken_one_is_replaced(tmp_path: Path) -> None:
    path = build(tmp_path / "geography.db")
    before = path.stat().st_mtime_ns
    assert build(path).stat().st_mtime_ns == before
    path.write_bytes(b"not a database at all")
    assert run_sql(build(path), "SELECT COUNT(*) FROM continents").rows == ((7,),)
    assert [entry.name for entry in tmp_path.iterdir()] == ["geography.db"]


@pytest.mark.parametrize(
    "sql",
    [
        "",
        "DROP TABLE cities",
        "INSERT INTO states VALUES ('XX', 'X')",
        "DELETE FROM cities",
        "SELECT 1; SELECT 2",
        "PRAGMA user_version = 7",
        "ATTACH 'x.db' AS x",
        "not sql at all (",
    ],
)
def test_only_one_select_is_allowed(sql: str) -> None:
    with pytest.raises(NotOneSelect):
        check_select(sql)


def test_one_select_may_end_with_a_semicolon() -> None:
    assert check_select(" SELECT 1; ") == "SELECT 1"


@pytest.mark.parametrize("sql", ["SELECT nothing FROM cities", "SELECT name FROM users", "SELECT load_extension('x')"])
def test_what_sqlite_refuses_is_told(database: Path, sql: str) -> None:
    with pytest.raises(QueryFailed):
        run_sql(database, sql)


def test_a_query_that_writes_by_a_detour_is_refused(database: Path) -> None:
    with pytest.raises(QueryFailed):
        run_sql(database, "SELECT * FROM pragma_user_version")


def test_a_slow_query_is_stopped(database: Path) -> None:
    ticks = iter(range(1_000_000))
    with pytest.raises(QueryTooSlow):
        run_sql(database, "SELECT COUNT(*) FROM cities a, cities b, cities c", clock=lambda: float(next(ticks)))


def test_rows_are_limited(database: Path) -> None:
    result = run_sql(database, "SELECT name FROM cities", row_limit=10)
    assert len(result.rows) == 10 and result.truncated
    assert not run_sql(database, "SELECT name FROM continents", row_limit=7).truncated


def test_votes_go_by_content() -> None:
    assert vote_key([("a", 1), ("b", 2)], False) == vote_key([("b", 2.0), ("a", 1)], False)
    assert vote_key([("a", 1), ("b", 2)], True) != vote_key([("b", 2), ("a", 1)], True)
    assert vote_key([(0.1 + 0.2,)], False) == vote_key([(0.3,)], False)
    assert vote_key([("1",)], False) != vote_key([(1,)], False)


def test_empty_results() -> None:
    assert is_empty([]) and is_empty([(None, None)])
    assert not is_empty([(0,)])


@pytest.mark.parametrize(
    ("gold", "predicted", "ordered", "same"),
    [
        ([("a",), ("b",)], [("b",), ("a",)], False, True),
        ([("a",), ("b",)], [("b",), ("a",)], True, False),
        ([("a",), ("a",)], [("a",)], False, False),
        ([("a", 1)], [(1, "a")], False, True),
        ([(1.5, 2.5)], [(2.5, 1.5)], False, False),
        ([("a", "b")], [("b", "a")], False, False),
        ([("a", 1)], [("a",)], False, False),
        ([(7,)], [(7.0,)], False, True),
        ([(100.0,)], [(100.00001,)], False, True),
        ([(100.0,)], [(100.1,)], False, False),
        ([(None,)], [(0,)], False, False),
        ([], [], False, True),
    ],
)
def test_the_rule_of_execution_accuracy(
    gold: list[tuple[object, ...]], predicted: list[tuple[object, ...]], ordered: bool, same: bool
) -> None:
    assert same_result(gold, predicted, ordered) is same  # type: ignore[arg-type]


def test_wrong_sql_is_wrong_and_wrong_gold_is_an_error(database: Path) -> None:
    assert not execution_match(database, "SELECT 1", "SELECT nothing", False)
    with pytest.raises(QueryFailed):
        execution_match(database, "SELECT nothing", "SELECT 1", False)
