"""Effects keep their declared order, reads run side by side, and nothing waits for ever."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from dag.graph import ProgramGraph
from orchestrator.runtime.order import effect_order
from orchestrator.tools import EffectOrder
from tenuto.wire import EffectClass, ToolSpec
from tests.orchestrator.runtime.support import function, llm, var

READ, WRITE, EXCLUSIVE = EffectClass.READ, EffectClass.WRITE, EffectClass.EXCLUSIVE

effects = st.one_of(
    st.just((READ, None)),
    st.tuples(st.just(WRITE), st.sampled_from(["k", "l", None])),
    st.just((EXCLUSIVE, None)),
)


def conflict(a: tuple[EffectClass, str | None], b: tuple[EffectClass, str | None]) -> bool:
    """The definition: what may not run side by side."""
    if READ in (a[0], b[0]):
        return False
    if a[0] is b[0] is WRITE and a[1] is not None and b[1] is not None:
        return a[1] == b[1]
    return True


@given(st.lists(effects, max_size=20), st.randoms(use_true_random=False))
def test_conflicting_effects_run_one_by_one_in_declared_order_and_others_at_once(
    declared: list[tuple[EffectClass, str | None]], random: object
) -> None:
    order = EffectOrder()
    for index, (effect, key) in enumerate(declared):
        order.declare(str(index), effect, key)
    running = {n for n in range(len(declared)) if order.may_start(str(n))}
    finished: set[int] = set()
    while running:
        for n in range(len(declared)):
            blocked = any(m not in finished and conflict(declared[m], declared[n]) for m in range(n))
            assert (n in running) == (not blocked and n not in finished), n
        ending = random.choice(sorted(running))  # type: ignore[attr-defined]
        running.remove(ending)
        finished.add(ending)
        running |= {int(name) for name in order.finish(str(ending))}
        assert order.finish(str(ending)) == ()
    assert len(finished) == len(declared)


@given(st.lists(effects, max_size=15), st.integers(0, 14))
def test_declaring_while_others_run_is_the_same_as_declaring_before(
    declared: list[tuple[EffectClass, str | None]], begun: int
) -> None:
    order = EffectOrder()
    for index, (effect, key) in enumerate(declared[:begun]):
        order.declare(str(index), effect, key)
    done = [n for n in range(min(begun, len(declared))) if order.may_start(str(n))]
    for n in done:
        order.finish(str(n))
    for index, (effect, key) in enumerate(declared[begun:], begun):
        order.declare(str(index), effect, key)
    for n, m in combinations(range(len(declared)), 2):
        if n not in done and m not in done and conflict(declared[n], declared[m]):
            assert not order.may_start(str(m))


def _order(*calls: object, tools: dict[str, ToolSpec] | None = None) -> list[str]:
    graph = ProgramGraph()
    graph.extend({}, calls, ())  # type: ignore[arg-type]
    return [name for name, _, _ in effect_order(calls, tools or {}, graph)]  # type: ignore[arg-type]


def test_turns_follow_declaration_unless_a_call_needs_a_later_one() -> None:
    a = function("a", "t", {"x": var("c")}, effect=EXCLUSIVE)
    b = function("b", "t", effect=EXCLUSIVE)
    middle = llm("c", var("d"))
    d = function("d", "t", effect=EXCLUSIVE)
    assert _order(a, b, middle, d) == ["d", "a", "b"]
    assert _order(b, d, middle, a) == ["b", "d", "a"]


def test_reads_have_no_turn_and_a_tools_own_effect_counts_where_the_call_says_none() -> None:
    from tenuto.wire import FunctionCall

    silent = FunctionCall(id="a", tool="look")
    assert _order(silent) == ["a"]
    assert _order(silent, tools={"look": ToolSpec(name="look", effect=READ)}) == []
    loud = FunctionCall(id="b", tool="look", effect=EXCLUSIVE)
    assert _order(loud, tools={"look": ToolSpec(name="look", effect=READ)}) == ["b"]
