"""Whole simulations: the production runtime under made-up programs, exact to the seed."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from engine.costs import EngineProfile
from orchestrator.retention import UnknownRule
from orchestrator.scheduling import UnknownPolicy
from orchestrator.simulation import Faults, Report, TraceError, TraceProgram, simulate
from orchestrator.simulation.plot import curves, distributions
from orchestrator.simulation.sweep import Setting, Slo, best, breaking_load, run_jobs, sweep
from orchestrator.simulation.synthetic import agents
from orchestrator.simulation.trace import LLMNode, Piece, ToolNode
from tests.orchestrator.simulation.made_up import chains, chats, map_reduces

CARD = EngineProfile(
    "card",
    kv_tokens=24_000,
    kv_bytes_per_token=1000,
    weights_s=0.004,
    token_s=3e-5,
    pair_s=2e-9,
    read_s=5e-8,
    token_budget=1024,
    max_running=32,
)
MIXED = [*agents(6, seed=1, turns=(2, 5)), *chains(3, length=4), *map_reduces(3, maps=4), *chats(6)]


def check(report: Report, programs: int) -> None:
    assert len(report.programs) == programs and all(program.succeeded for program in report.programs)
    for program in report.programs:
        assert program.seconds > 0 and program.end_s <= report.makespan_s + 1e-9
        for call in program.calls:
            assert program.arrival_s <= call.ready_s <= call.first_token_s <= call.end_s <= program.end_s + 1e-9
            assert 0 <= call.cached_tokens < call.prompt_tokens


@pytest.mark.parametrize("policy", ["fcfs", "program_fcfs", "tenuto"])
@pytest.mark.parametrize("retention", ["lru", "tenuto"])
def test_every_program_ends_whatever_the_setting(policy: str, retention: str) -> None:
    report = simulate(MIXED, engine=CARD, policy=policy, retention=retention, seed=2, scale=0.2)
    check(report, len(MIXED))
    ended = sum(report.leases.ended.values())
    assert (ended > 0) == (retention == "tenuto")


def test_the_same_seed_gives_the_same_bytes_and_another_one_others() -> None:
    def run(seed: int) -> str:
        report = simulate(list(MIXED), engine=CARD, policy="tenuto", retention="tenuto", seed=seed, scale=0.3)
        return json.dumps(report.document())

    assert run(5) == run(5) != run(6)


def test_a_single_agent_takes_its_calls_and_its_tools() -> None:
    prompt = (Piece("sys", 0, 320), Piece("p", 0, 80))
    longer = (*prompt, Piece("p/a.out", 0, 33), Piece("p", 80, 180))
    nodes = (
        LLMNode("a", (), prompt, 33),
        ToolNode("t", ("a",), "search", 2.5),
        ToolNode("u", ("a",), "read", 1.0),
        LLMNode("b", ("t", "u"), longer, 9, wait=200.0),
    )
    program = TraceProgram("p", "flow", 1.0, nodes, online=True)
    report = simulate([program], engine=CARD, drawn=False, wait_cap_s=4.0)
    (outcome,) = report.programs
    first, second = outcome.calls
    assert first.ready_s == pytest.approx(1.0)
    assert first.ttft_s == pytest.approx(CARD.prefill_seconds(0, 400))
    assert first.end_s - first.first_token_s == pytest.approx(CARD.decode_seconds(1, 401, 32))
    assert second.ready_s == pytest.approx(first.end_s + 2.5 + 4.0)
    assert second.cached_tokens == 432 and second.prompt_tokens == 533
    assert outcome.end_s == second.end_s
    assert outcome.causes["tool"] == pytest.approx(2.5)


def test_an_infinite_memory_computes_nothing_twice_and_little_memory_does() -> None:
    trace = agents(12, seed=4, turns=(4, 6))
    tight = simulate(trace, engine=CARD, seed=1, scale=0.1)
    roomy = simulate(trace, engine=CARD, seed=1, scale=0.1, infinite=True)
    assert roomy.recomputed_tokens == 0 < tight.recomputed_tokens
    assert roomy.hit_rate > tight.hit_rate and roomy.mean_s < tight.mean_s
    hosted = simulate(trace, engine=CARD, seed=1, scale=0.1, host_bytes=10**9)
    assert roomy.mean_s * 0.99 < hosted.mean_s < tight.mean_s


def test_load_is_peak_private_memory_over_capacity() -> None:
    trace = agents(6, seed=4, turns=(3, 4))
    asked = simulate(trace, engine=CARD, seed=1, load=0.5)
    at_load = simulate(trace, engine=CARD, seed=1, scale=asked.scale, infinite=True)
    assert asked.load == pytest.approx(at_load.peak_private_tokens / CARD.kv_tokens) == pytest.approx(0.5, abs=0.06)
    beyond = simulate(trace, engine=CARD, seed=1, load=5.0)
    assert beyond.load is not None and beyond.load < 1.0


def test_replicas_share_the_programs() -> None:
    one = simulate(MIXED, engine=CARD, seed=3, scale=0.05)
    four = simulate(MIXED, engine=CARD, seed=3, scale=0.05, replicas=4)
    check(four, len(MIXED))
    assert four.mean_s < one.mean_s and four.busy_share < one.busy_share


def test_the_oracle_knows_the_pauses() -> None:
    trace = agents(10, seed=4, turns=(3, 5))
    check(simulate(trace, engine=CARD, seed=1, scale=0.2, retention="oracle"), 10)


def test_engines_that_crash_lose_time_but_no_program() -> None:
    trace = agents(8, seed=2, turns=(3, 5))
    calm = simulate(trace, engine=CARD, seed=1, scale=0.5)
    faults = Faults(crash_every_s=8.0, restart_s=1.0, slow_share=0.3, slow_factor=4.0)
    rough = simulate(trace, engine=CARD, seed=1, scale=0.5, faults=faults)
    check(rough, 8)
    assert rough.mean_s > calm.mean_s and rough.cut_calls == 0
    again = simulate(trace, engine=CARD, seed=1, scale=0.5, faults=faults)
    assert again.document() == rough.document()
    with pytest.raises(ValueError, match="slow_share"):
        Faults(slow_share=2.0)


@pytest.mark.parametrize("host_bytes", [0, 10**8])
def test_leases_are_reported_by_outcome_whoever_keeps_their_books(host_bytes: int) -> None:
    trace = agents(8, seed=2, turns=(3, 5))
    report = simulate(trace, engine=CARD, policy="tenuto", retention="tenuto", seed=1, scale=0.1, host_bytes=host_bytes)
    calls = sum(len(program.calls) for program in report.programs)
    leases = report.leases
    assert len(trace) < leases.ended["handoff"] <= calls - len(trace) and sum(leases.ended.values()) <= calls
    assert leases.byte_seconds["handoff"] > 0 and 0 <= leases.wasted_share < 1
    assert ("unused" in leases.byte_seconds) == (host_bytes > 0)


@pytest.mark.parametrize("host_bytes", [0, 10**8])
def test_leases_end_with_the_engine_that_crashes(host_bytes: int) -> None:
    trace = agents(8, seed=2, turns=(3, 5), pause_s=10.0)
    report = simulate(
        trace, engine=CARD, policy="tenuto", retention="tenuto", seed=1, scale=0.1, host_bytes=host_bytes,
        faults=Faults(crash_every_s=8.0, restart_s=1.0),
    )  # fmt: skip
    assert report.leases.ended["cancelled"] > 0 and 0 < report.leases.wasted_share < 1


def test_deadlines_and_goodput() -> None:
    report = simulate([replace(p, deadline=1000.0) for p in chats(5)], engine=CARD, drawn=False)
    assert report.attainment == 1.0 and report.goodput == pytest.approx(5 / report.makespan_s)
    strict = simulate([replace(p, deadline=0.001) for p in chats(5)], engine=CARD, drawn=False)
    assert strict.attainment == 0.0 == strict.goodput


@pytest.mark.parametrize("online", [False, True], ids=["declared", "online"])
def test_a_program_that_cannot_run_has_failed(online: bool) -> None:
    calls = [LLMNode("a", (), (Piece("p", 0, 9),), 5), LLMNode("b", ("a",), (Piece("p", 0, 300_000),), 5)]
    never = TraceProgram("never", "flow", 1.0, (replace(calls[1], after=()),), deadline=10.0, online=online)
    half = TraceProgram("half", "flow", 1.0, tuple(calls), deadline=10.0, online=online)
    trace = [never, half, *chats(1)]
    report = simulate(trace, engine="h200-8b", drawn=False)
    assert [(p.succeeded, p.met, len(p.calls)) for p in sorted(report.programs, key=lambda p: p.program)] == [
        (True, True, 1), (False, False, 1), (False, False, 0)
    ]  # fmt: skip
    well = simulate(trace[2:], engine="h200-8b", drawn=False)
    assert report.summary()["failed"] == 2 and report.attainment == pytest.approx(1 / 3)
    assert report.mean_s == report.quantile_s(0.5) == pytest.approx(well.mean_s, rel=0.1)
    none = simulate([never], engine="h200-8b", drawn=False)
    assert set(none.summary()["completion_s"].values()) == {None} and none.mean_s == none.quantile_s(0.5) == math.inf
    assert "<svg" in distributions([("none", none)])


@pytest.mark.parametrize(
    ("prompt", "output", "made"), [(100, 65_536, 65_536), (100, 70_000, 65_536), (262_000, 200, 144)]
)
def test_outputs_that_are_cut_are_counted(prompt: int, output: int, made: int) -> None:
    node = LLMNode("0", (), (Piece("p", 0, prompt),), output)
    report = simulate([TraceProgram("p", "flow", 0.0, (node,))], engine="h200-8b", drawn=False)
    assert [call.output_tokens for call in report.programs[0].calls] == [made]
    assert report.summary().get("cut_calls", 0) == report.cut_calls == (made < output)


def test_arrivals_go_on_as_long_as_virtual_time_can() -> None:
    early, late = (replace(p, arrival=at) for p, at in zip(chats(2), (0.0, 15_000_000.0), strict=True))
    check(simulate([early, late], engine=CARD, drawn=False), 2)
    with pytest.raises(TraceError, match=r"the last arrival, .* must be at most 15,000,000 s"):
        simulate([early, late], engine=CARD, programs=100)


def test_unknown_names_are_told() -> None:
    with pytest.raises(UnknownPolicy, match="fcfs"):
        simulate(MIXED, engine=CARD, policy="luck")
    with pytest.raises(UnknownRule, match="lru"):
        simulate(MIXED, engine=CARD, retention="luck")


# -- sweeps -------------------------------------------------------------------------------------


def test_a_sweep_finds_the_best_setting_and_the_load_that_breaks() -> None:
    trace = agents(5, seed=4, turns=(2, 3))
    settings = [Setting("fcfs", "lru"), Setting("program_fcfs", "lru")]
    told: list[int] = []
    points = sweep(trace, settings, [0.3, 2.0], [1], engine=CARD, done=told.append)
    assert [(point.setting, point.load) for point in points] == [(s, load) for s in settings for load in (0.3, 2.0)]
    assert sorted(told) == [0, 1, 2, 3]
    winners = best(points)
    assert list(winners) == [0.3, 2.0] and winners[2.0].mean_s == min(p.mean_s for p in points if p.load == 2.0)
    low, high = (p.reports[0].ttft_s(0.99) for p in points if p.setting == settings[0])
    found = breaking_load(trace, settings[0], Slo(None, (low * high) ** 0.5), points, refinements=1, engine=CARD)
    assert found.holds is not None and found.breaks is not None and 0.3 <= found.holds < found.breaks <= 2.0
    assert "p99 time to first token" in found.why
    assert curves(points).count("<polyline") == 2
    assert "<svg" in distributions([("a", points[0].reports[0])])


def test_processes_give_the_same_reports() -> None:
    trace = chats(3)
    jobs = [{"engine": CARD, "seed": seed} for seed in (1, 2)]
    alone, together = run_jobs(trace, jobs), run_jobs(trace, jobs, processes=2)
    assert [r.document() for r in alone] == [r.document() for r in together]
