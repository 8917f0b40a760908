"""The plan grammar: what is read, what is mended, what is told; the same for every way to cut the text."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.function_plans import malformed, plan, read, silent_drops
from dag.plan import PlanDiagnostic, PlanEvent, PlanLimits, PlannedCall, PlannedJoin, PlanParser, PlanRef, PlanText


def calls(text: str, **options: object) -> list[PlannedCall]:
    return [event for event in events(text, **options) if isinstance(event, PlannedCall)]


def events(text: str, **options: object) -> list[PlanEvent]:
    parser = PlanParser(**options)  # type: ignore[arg-type]
    return parser.feed(text) + parser.close()


def faults(text: str, severity: str = "error", **options: object) -> list[tuple[str, int, int]]:
    return [
        (event.code, event.line, event.column)
        for event in events(text, **options)
        if isinstance(event, PlanDiagnostic) and event.severity == severity
    ]


def values(text: str) -> list[object]:
    """Arguments of the last call of a plan whose calls 1 and 2 are there."""
    call = calls(f'1. a("x")\n2. b("y")\n3. c({text})\njoin()')[-1]
    assert call.id == 3, "the call could not be read"
    return [argument.value for argument in call.arguments]


# -- what is read -------------------------------------------------------------------------------


def test_a_plan_of_llmcompiler_is_read() -> None:
    text = 'Thought: two searches\n1. search("Ann")\n2. search("Bob")\n3. math("older?", ["$1", "$2"])\n'
    text += "4. join()<END_OF_PLAN>"
    found = events(text)
    assert [(e.id, e.tool) for e in found if isinstance(e, PlannedCall)] == [(1, "search"), (2, "search"), (3, "math")]
    assert isinstance(found[-1], PlannedJoin) and found[-1].waits_for is None
    assert found[0].thought == "two searches"  # type: ignore[union-attr]
    assert found[2].arguments[1].value == [PlanRef(1, quoted=True), PlanRef(2, quoted=True)]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('\'it\\\'s\', "a \\"b\\""', ["it's", 'a "b"']),
        ('"""a "b" c"""', ['a "b" c']),
        ('"\\u00e9\\ud83c\\udf0d\\n\\x41"', ["é🌍\nA"]),
        ("-2.5, 1e3, 7, true, None, False", [-2.5, 1000.0, 7, True, None, False]),
        ('["a", "b"]', [["a", "b"]]),
        ("[1, [2, {'k': 3}],], ()", [[1, [2, {"k": 3}]], []]),
        ("{k: 1, \"l\": 'm'}", [{"k": 1, "l": "m"}]),
        ("$1, $2", [PlanRef(1), PlanRef(2)]),
        ("$1.price[0][-1]", [PlanRef(1, ("price", 0, -1))]),
        ('$1["a b"].c, ${2}, ${2.x[1]}', [PlanRef(1, ("a b", "c")), PlanRef(2), PlanRef(2, ("x", 1))]),
        ('"$1", "$1.price"', [PlanRef(1, quoted=True), PlanRef(1, ("price",), quoted=True)]),
        ('{"deep": ["$1"]}', [{"deep": [PlanRef(1, quoted=True)]}]),
        ('"see $1 and ${2.x}."', [PlanText(("see ", PlanRef(1), " and ", PlanRef(2, ("x",)), "."))]),
        ('"costs $5, $1.50, $1,000 or $$1"', ["costs $5, $1.50, $1,000 or $1"]),
        ('"$10"', ["$10"]),
        ("'a', # b\n 'c'  # d)", ["a", "c"]),
        ('"over\ntwo lines"', ["over\ntwo lines"]),
    ],
)
def test_arguments(text: str, expected: list[object]) -> None:
    assert values(text + "\n" if "#" in text else text) == expected


def test_ten_is_not_one_and_zero() -> None:
    lines = [f'{n}. search("x")' for n in range(1, 11)] + ["11. math($10, $1)"]
    assert [a.value for a in calls("\n".join(lines))[-1].arguments] == [PlanRef(10), PlanRef(1)]


def test_two_calls_on_a_line_dotted_names_bullets_and_keywords() -> None:
    found = calls('- 1. my.search("a") 2. b(k="v", n=2); * 3) c()\n  4: d()')
    assert [(call.id, call.tool) for call in found] == [(1, "my.search"), (2, "b"), (3, "c"), (4, "d")]
    assert [argument.name for argument in found[1].arguments] == ["k", "n"]


def test_a_comment_is_no_argument_and_no_call() -> None:
    assert [call.id for call in calls('1. a("x") # see 2. b("y")\n# 3. c()\n4. d("#5")')] == [1, 4]


def test_join_waits_for_what_it_names() -> None:
    join = events('1. a()\n2. b()\n3. join($2, "$1")')[-1]
    assert isinstance(join, PlannedJoin) and join.waits_for == (2, 1)


def test_gaps_between_numbers_are_fine_and_earlier_rounds_can_be_named() -> None:
    found = calls("7. a($2.x)\n9. b($7)", earlier=[2])
    assert [call.id for call in found] == [7, 9]
    assert found[0].arguments[0].value == PlanRef(2, ("x",))


# -- what is told -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1. search($1 foo)", [("unquoted_text", 1, 11)]),
        ("1. a()\n2. b($2)", [("unknown_reference", 2, 6)]),
        ("1. a($2)\n2. b()", [("unknown_reference", 1, 6)]),
        ("1. a(oops)\n2. b($1)", [("unquoted_text", 1, 6), ("unknown_reference", 2, 6)]),
        ("1. a()\n1. b()", [("duplicate_id", 2, 1)]),
        ("1. search", [("unreadable_line", 1, 1)]),
        ('1. a("x" "y")', [("comma_missing", 1, 10)]),
        ("1. a(k=1, 2)", [("positional_after_keyword", 1, 11)]),
        ("1. a(k=1, k=2)", [("argument_twice", 1, 11)]),
        ("1. a({1: 2, 1: 3})", [("key_twice", 1, 13)]),
        ("1. a({'k' 2})", [("colon_missing", 1, 11)]),
        ("1. a(,)", [("unquoted_text", 1, 6)]),
        ("1. a(1e999)", [("number_too_large", 1, 6)]),
        ("1. a(" + "9" * 2000 + ")", [("number_too_long", 1, 6)]),
        ('1. a("\\ud800")', [("bad_escape", 1, 7)]),
        ("1. a($x)", [("bad_reference", 1, 6)]),
        ('1. a("${1")', [("bad_reference", 1, 7)]),
        ("1. a(" + "[" * 99 + "]" * 99 + ")", [("too_deep", 1, 71)]),
    ],
)
def test_faults_have_a_name_and_a_place(text: str, expected: list[tuple[str, int, int]]) -> None:
    assert faults(text) == expected


def test_a_missing_parenthesis_is_mended_where_that_is_sure_and_the_next_call_is_not_lost() -> None:
    found = calls('1. search("x", [1, 2\n2. math("y")\njoin()')
    assert [(call.id, call.repaired) for call in found] == [(1, True), (2, False)]
    assert found[0].arguments[1].value == [1, 2]
    assert faults('1. search("x", [1, 2\n2. math("y")', "warning") == [("unclosed_call_repaired", 1, 1)]


def test_a_text_that_is_not_closed_costs_its_own_call_alone() -> None:
    text = '1. search("x\n2. math("y")\n3. b($1)\njoin()'
    assert [call.id for call in calls(text)] == [2]
    assert faults(text) == [("unclosed_call", 1, 1), ("unknown_reference", 3, 6)]


def test_a_number_that_is_taken_for_text_is_told_when_its_call_comes_later() -> None:
    text = '1. note("pay $2 now")\n2. search("x")'
    assert calls(text)[0].arguments[0].value == "pay $2 now"
    assert faults(text, "warning") == [("forward_reference", 2, 1)]
    assert faults('1. note("$2")', "warning") == [("reference_taken_for_text", 1, 10)]


def test_what_follows_join_and_what_is_no_call_is_told() -> None:
    text = "Here is the plan:\n1. a()\njoin() # done\n2. b()"
    notes = [(e.code, e.line) for e in events(text) if isinstance(e, PlanDiagnostic)]
    assert notes == [("not_a_call", 1), ("text_after_join", 4)]
    assert faults("1. a()", "note") == [("no_join", 1, 7)]
    assert faults("1. a()\nThought: and then", "note") == [("thought_alone", 2, 1), ("no_join", 2, 18)]


def test_limits_are_told_and_nothing_grows_without_bound() -> None:
    limits = PlanLimits(calls=2, call_chars=50, line_chars=40)
    text = '1. a()\n2. b()\n3. c()\n4. d("' + "x" * 100 + '")\n' + "(" * 1000
    found = [code for code, _, _ in faults(text, limits=limits)]
    assert found[:2] == ["too_many_calls", "call_too_long"]
    assert not silent_drops(text, events(text, limits=limits))


def test_a_closed_plan_takes_no_text() -> None:
    parser = PlanParser()
    parser.close()
    assert parser.close() == []
    with pytest.raises(ValueError, match="closed"):
        parser.feed("1. a()")


# -- for every text -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_every_way_to_cut_a_plan_gives_the_same_events(seed: int) -> None:
    text = plan(Random(seed), 4)
    whole = read(text)
    assert not [e for e in whole if isinstance(e, PlanDiagnostic) and e.severity == "error"]
    assert sum(isinstance(event, PlannedCall) for event in whole) == 4
    assert read(text, *range(1, len(text))) == whole
    for cut in range(1, len(text)):
        assert read(text, cut) == whole


@given(st.integers(0, 2**32), st.data())
@settings(max_examples=60, deadline=None)
def test_malformed_plans_drop_nothing_silently_whatever_the_cuts(seed: int, data: st.DataObject) -> None:
    text = malformed(Random(seed))
    whole = read(text)
    assert silent_drops(text, whole) == []
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=8))
    assert read(text, *cuts) == whole


@given(st.text(alphabet=st.sampled_from("12.$ab(\"'[]{},:=#\\\n{}")), st.lists(st.integers(0, 60), max_size=4))
@settings(max_examples=200, deadline=None)
def test_any_text_is_read_without_an_exception_and_alike(text: str, cuts: list[int]) -> None:
    whole = read(text)
    assert read(text, *(min(cut, len(text)) for cut in cuts)) == whole
    assert silent_drops(text, whole) == []
    for event in whole:
        assert 0 <= event.span.start <= event.span.end <= len(text)
