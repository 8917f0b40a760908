"""From the end of an LLM call to the start of the next: what an engine is told, and how each lease ends."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any

import pytest

from engine.protocol import Capabilities, GenerateRequest, Lease, LeaseOutcome, Tier, TokenChunk
from kv_ttl.ledger import Outcome
from kv_ttl.ledger import Tier as LedgerTier
from orchestrator.limits import Limits
from orchestrator.retention import Plan, Situation, make_rule
from orchestrator.retention.baselines import KeepAlways
from orchestrator.retention.rules import Silent, Tenuto
from orchestrator.scheduling import make_policy
from tenuto.wire import EventKind, GraphExtension, ProgramStatus
from tests.orchestrator.retention.support import LeasingEngine, agent, agent_call, extend, retention_of, served
from tests.orchestrator.runtime.support import TENANT, Server, function, llm, program, var


async def sleeping(seconds: float) -> str:
    """A tool's work."""
    await asyncio.sleep(seconds)
    return "done"


def outcomes(server: Server) -> dict[str, int]:
    """Leases by outcome, those that happened."""
    return {how.value: count for how, count in retention_of(server).ended_leases().items() if count}


class Planned(Silent):
    """Plans what a test says; `seen` are the situations that it was asked about."""

    name = "planned"

    def __init__(self, *plans: Plan, reconsiders: bool = False) -> None:
        self.plans = list(plans)
        self.reconsiders = reconsiders
        self.seen: list[Situation] = []

    def plan(self, situation: Situation) -> Plan:
        self.seen.append(situation)
        return self.plans.pop(0) if len(self.plans) > 1 else self.plans[0]


def keep(seconds: float, rank: float = 0.0) -> Plan:
    return Plan(seconds, seconds, rank, seconds)


async def test_a_chain_is_kept_through_its_tool_and_handed_to_the_next_call() -> None:
    engine = LeasingEngine()
    server = await served(engine)
    server.worker(work=lambda turn: sleeping(3.0))
    view = await server.run(agent(3))
    assert view.status is ProgramStatus.SUCCEEDED
    first, second, third = engine.requests
    assert (second.continues, third.continues) == (first.id, second.id)
    assert [request.hold_s > 0 for request in engine.requests] == [True, True, False], "nothing follows the last call"
    told = {lease.request for lease in engine.retained}
    assert told == {first.id, second.id}
    assert outcomes(server) == {"handoff": 2}
    assert engine.usages[1].cached_tokens > 60, "the second call found the first one's prompt and output"
    assert not engine.held
    retention_of(server).check()
    await server.close()


async def test_a_pause_is_announced_with_its_tools_and_joined_by_the_slowest() -> None:
    engine, rule = LeasingEngine(), Planned(keep(100.0))
    server = await served(engine, rule=rule)
    server.worker(work=lambda turn: sleeping(1.0))
    await server.run(agent(2, tools=3))
    (situation,) = rule.seen
    assert [one.call.tool for one in situation.waits] == ["work"] * 3
    assert situation.call == "say0" and situation.tokens > 60 and situation.chain[-1].recompute_s > 0
    assert all(one.after == () for one in situation.waits)
    await server.close()


async def test_calls_in_a_row_before_the_next_llm_call_are_counted_as_such() -> None:
    engine, rule = LeasingEngine(), Planned(keep(100.0))
    server = await served(engine, rule=rule)
    server.worker(a=lambda: sleeping(1.0), b=lambda: sleeping(1.0), c=lambda: sleeping(1.0))
    first = agent_call("say0", 0)
    calls = [
        first,
        function("a", "a", after=("say0",)),
        function("do0", "b", after=("a",)),
        function("c", "c", after=("say0",)),
        agent_call("say1", 1, after=("c",)),
    ]
    await server.run(program(*calls, outputs=("say1",)))
    (situation,) = rule.seen
    tools = [one.call.tool for one in situation.waits]
    edges = {one.call.tool: [tools[index] for index in one.after] for one in situation.waits}
    assert edges == {"a": [], "b": ["a"], "c": []}
    await server.close()


async def test_a_lease_expires_and_its_chain_is_dropped() -> None:
    engine, rule = LeasingEngine(), Planned(keep(2.0), Plan(0.0, 0.0, 0.0, 0.0))
    server = await served(engine, rule=rule)
    server.worker(work=lambda turn: sleeping(10.0))
    await server.run(agent(2))
    assert outcomes(server) == {"expired": 1}
    assert [outcome for _, outcome in engine.released] == [LeaseOutcome.EXPIRED]
    assert engine.requests[1].continues == engine.requests[0].id, "what is left of it may still be found"
    await server.close()


async def test_an_expiring_lease_is_decided_on_again_and_may_go_on() -> None:
    engine, rule = LeasingEngine(), Planned(keep(2.0), keep(30.0))
    server = await served(engine, rule=rule)
    server.worker(work=lambda turn: sleeping(10.0))
    await server.run(agent(2))
    assert outcomes(server) == {"handoff": 1}
    assert [situation.now - situation.began_at for situation in rule.seen] == [0.0, pytest.approx(2.0)]
    await server.close()


async def test_a_lease_whose_call_is_back_does_not_expire_in_the_queue() -> None:
    engine, rule = LeasingEngine(), Planned(keep(2.0))
    server = await served(engine, rule=rule, limits=Limits(engine_calls=1))
    server.worker(work=lambda turn: sleeping(1.0))
    engine.output = lambda request: 8 if request.call.startswith("say") else 500
    id = await server.submit(agent(2))
    await server.until(id, EventKind.CALL_STARTED, "do0")
    blocking = await server.submit(program(llm("long")))
    await server.follow(id)
    assert outcomes(server) == {"handoff": 1}
    assert max(lease.ttl_s for lease in engine.retained) >= 3600.0 or any(
        math.isinf(lease.rank) for lease in engine.retained
    )
    await server.follow(blocking)
    await server.close()


async def test_the_last_call_of_a_declared_program_leaves_nothing() -> None:
    engine = LeasingEngine()
    server = await served(engine)
    await server.run(program(llm("only"), llm("other", "read", var("only"))))
    assert engine.retained == [] and outcomes(server) == {}
    assert not engine.held, "no engine keeps by itself what nobody will ask for"
    await server.close()


async def test_a_call_that_shares_only_the_beginning_keeps_only_that() -> None:
    engine, rule = LeasingEngine(), Planned(keep(100.0))
    server = await served(engine, rule=rule)
    server.worker(work=lambda: sleeping(1.0))
    shared = "a long preamble " * 30
    calls = [
        llm("one", shared, "and a question of its own " * 30),
        function("do", "work", after=("one",)),
        llm("two", shared, "another question", after=("do",)),
    ]
    await server.run(program(*calls))
    (lease,) = [lease for lease in engine.retained if not math.isinf(lease.rank)]
    assert 0 < lease.tokens < 0.6 * engine.usages[0].prompt_tokens
    await server.close()


async def test_cancelled_programs_free_their_leases() -> None:
    engine = LeasingEngine()
    server = await served(engine, rule=KeepAlways())
    server.worker(work=lambda turn: sleeping(1000.0))
    id = await server.submit(agent(2))
    await server.until(id, EventKind.CALL_STARTED, "do0")
    await server.runtime.cancel(id, tenant=TENANT)
    await asyncio.sleep(0.1)
    assert outcomes(server) == {"cancelled": 1} and not engine.held
    retention_of(server).check()
    await server.close()


async def test_what_the_engine_breaks_under_pressure_is_written_off() -> None:
    engine = LeasingEngine()
    server = await served(engine, rule=KeepAlways())
    server.worker(work=lambda turn: sleeping(5.0))
    id = await server.submit(agent(2))
    await server.until(id, EventKind.CALL_STARTED, "do0")
    await asyncio.sleep(1.0)
    (lease,) = engine.held
    engine.break_lease(lease)
    await server.follow(id)
    assert outcomes(server) == {"pressure": 1}
    assert engine.usages[1].cached_tokens == 0
    await server.close()


async def test_an_engine_that_restarts_forgets_its_leases_cleanly() -> None:
    engine = LeasingEngine()
    server = await served(engine, rule=KeepAlways())
    server.worker(work=lambda turn: sleeping(5.0))
    ids = [await server.submit(agent(2)) for _ in range(3)]
    for id in ids:
        await server.until(id, EventKind.CALL_STARTED, "do0")
    await asyncio.sleep(1.0)
    engine.die()
    for id in ids:
        await server.follow(id)
    assert outcomes(server) == {"cancelled": 3}
    retention_of(server).check()
    await server.close()


async def test_a_lease_that_the_engine_refuses_is_no_lease() -> None:
    class Refusing(LeasingEngine):
        async def retain(self, lease: Lease) -> Any:
            self.resident.clear()
            return await super().retain(lease)

    engine = Refusing()
    server = await served(engine, rule=KeepAlways())
    server.worker(work=lambda turn: sleeping(5.0))
    await server.run(agent(2))
    assert outcomes(server) == {"pressure": 1}
    await server.close()


async def test_open_programs_are_kept_for_their_client_and_final_at_the_end() -> None:
    engine = LeasingEngine()
    server = await served(engine)
    server.worker(work=lambda turn: sleeping(2.0))
    id = await server.submit(program(agent_call("say0", 0), open=True, outputs=()))
    await server.until(id, EventKind.CALL_ENDED, "say0")
    await extend(server, id, function("do0", "work", {"turn": 0}, after=("say0",)))
    await server.until(id, EventKind.CALL_ENDED, "do0")
    await asyncio.sleep(0.5)
    await extend(server, id, agent_call("say1", 1))
    await server.until(id, EventKind.CALL_ENDED, "say1")
    assert outcomes(server) == {"handoff": 1}
    assert len(engine.held) == 1, "another call may follow"
    await server.runtime.extend(id, GraphExtension(seal=True), tenant=TENANT)
    await server.follow(id)
    await asyncio.sleep(0.1)
    assert outcomes(server) == {"handoff": 1, "final": 1} and not engine.held
    await server.close()


async def test_a_newer_history_supersedes_the_older_one() -> None:
    engine = LeasingEngine()
    server = await served(engine, rule=KeepAlways())
    id = await server.submit(program(agent_call("say0", 0), open=True, outputs=()))
    await server.until(id, EventKind.CALL_ENDED, "say0")
    longer = agent_call("say1", 1).model_copy(update={"id": "say1"})
    await extend(server, id, function("do0", "work", {"turn": 0}, after=("say0",)))
    server.worker(work=lambda turn: sleeping(0.5))
    await server.until(id, EventKind.CALL_ENDED, "do0")
    await extend(server, id, longer)
    await server.until(id, EventKind.CALL_ENDED, "say1")
    edited = longer.model_copy(update={"id": "again", "messages": (*longer.messages[:-1], longer.messages[1])})
    await extend(server, id, edited)
    await server.until(id, EventKind.CALL_STARTED, "again")
    assert outcomes(server) == {"handoff": 1, "cancelled": 1}
    await server.close()


async def test_a_subagents_chain_ends_when_its_caller_goes_on() -> None:
    engine = LeasingEngine()
    server = await served(engine, rule=KeepAlways())
    server.worker(work=lambda turn: sleeping(0.5))
    id = await server.submit(program(agent_call("say0", 0, stage="main"), open=True, outputs=()))
    await server.until(id, EventKind.CALL_ENDED, "say0")
    await extend(server, id, llm("sub", "look into ", var("say0"), stage="sub"))
    await server.until(id, EventKind.CALL_ENDED, "sub")
    assert {chain.call for chain in retention_of(server).paused(engine)} == {"say0", "sub"}
    await extend(server, id, function("do0", "work", {"turn": 0}, after=("sub",)))
    await server.until(id, EventKind.CALL_ENDED, "do0")
    await extend(server, id, agent_call("say1", 1, stage="main"))
    await server.until(id, EventKind.CALL_ENDED, "say1")
    assert outcomes(server) == {"handoff": 1, "cancelled": 1}
    retention_of(server).check()
    await server.close()


async def test_a_critic_whose_writer_goes_on_is_kept_once_it_was_seen_to_come_back() -> None:
    engine = LeasingEngine()
    server = await served(engine, rule=KeepAlways())

    def critic(turn: int) -> Any:
        parts = ["criticise ", *(var(f"say{n}") for n in range(turn + 1))]
        return llm(f"do{turn}", *parts, stage="critic")

    cancelled = []
    for _ in range(4):
        id = await server.submit(program(agent_call("say0", 0, stage="writer"), open=True, outputs=()))
        await server.until(id, EventKind.CALL_ENDED, "say0")
        for turn in range(3):
            await extend(server, id, critic(turn))
            await server.until(id, EventKind.CALL_ENDED, f"do{turn}")
            await extend(server, id, agent_call(f"say{turn + 1}", turn + 1, stage="writer"))
            await server.until(id, EventKind.CALL_ENDED, f"say{turn + 1}")
        cancelled.append(outcomes(server).get("cancelled", 0))
        await server.runtime.extend(id, GraphExtension(seal=True), tenant=TENANT)
        await server.follow(id)
    assert cancelled[0] >= 1, "at first a critic is taken for a subagent"
    assert cancelled[-1] == cancelled[1], "and later not"
    await server.close()


async def test_a_call_whose_prompt_does_not_tell_goes_on_with_its_stages_last_chain() -> None:
    """A template may put the history anywhere: then the graph tells."""
    engine = LeasingEngine()
    server = await served(engine, rule=KeepAlways())
    server.worker(work=lambda: sleeping(0.5))
    first = llm("first", "one prompt", stage="act")
    id = await server.submit(program(first, open=True, outputs=()))
    await server.until(id, EventKind.CALL_ENDED, "first")
    await extend(server, id, function("do", "work", after=("first",)))
    await extend(server, id, llm("second", "quite another prompt ", var("do"), stage="act"))
    await server.until(id, EventKind.CALL_ENDED, "second")
    assert engine.calls("second")[0].continues == engine.calls("first")[0].id
    await extend(server, id, llm("stranger", "a third prompt ", var("second"), stage="judge"))
    await server.until(id, EventKind.CALL_ENDED, "stranger")
    assert engine.calls("stranger")[0].continues == ""
    await server.close()


async def test_what_a_program_finds_again_of_its_own_is_not_shared() -> None:
    engine = LeasingEngine()
    server = await served(engine, rule=KeepAlways())
    server.worker(work=lambda turn: sleeping(0.5))
    id = await server.submit(agent(3))
    await server.until(id, EventKind.CALL_STARTED, "do1")
    (chain,) = retention_of(server).paused(engine)
    assert chain.shared_tokens == 0 < engine.usages[1].cached_tokens
    await server.follow(id)
    await server.close()


async def test_pressure_moves_the_least_deserving_chain_to_the_host_and_it_comes_back_in_time() -> None:
    engine = LeasingEngine(host_tokens=10_000)
    server = await served(engine, rule=KeepAlways())
    server.worker(work=lambda turn: sleeping(30.0))
    id = await server.submit(agent(2))
    await server.until(id, EventKind.CALL_STARTED, "do0")
    retention = retention_of(server)
    (victim,) = retention.victims(engine, 10)
    assert victim.program == id
    assert retention.park(engine, id) == victim.tokens > 0
    assert [chain.tier.value for chain in retention.paused(engine)] == ["host"]
    assert [*retention.victims(engine, 10)] == []
    retention.check()
    await server.follow(id)
    assert engine.demoted and engine.prefetched, "copied back when its call was back, at the latest"
    there = [lease for lease in engine.retained if lease.tier is Tier.HOST]
    assert there[0].ttl_s >= 60.0 and math.isinf(there[-1].rank), "its time there is its own"
    assert outcomes(server) == {"handoff": 1}
    await server.close()


async def test_where_programs_are_held_device_and_host_are_one_pool_and_leases_are_books() -> None:
    engine = LeasingEngine(kv_tokens=1000, host_tokens=500)
    server = await served(engine, rule=KeepAlways(), policy=make_policy("tenuto"))
    server.worker(work=lambda turn: sleeping(30.0))
    id = await server.submit(agent(2))
    await server.until(id, EventKind.CALL_STARTED, "do0")
    retention = retention_of(server)
    assert retention.pool_tokens(engine) == 1000 + 300  # the rest of the host is room to swap
    (chain,) = retention.paused(engine)
    assert retention.park(engine, id) == chain.tokens > 0 and retention.paused(engine) == ()
    retention.check()
    await server.follow(id)
    assert not (engine.retained or engine.demoted or engine.prefetched), "the engine goes by recency"
    await server.close()


async def test_the_budget_is_kept_and_better_chains_take_the_place_of_worse_ones() -> None:
    engine = LeasingEngine(kv_tokens=200)
    rule = Planned(keep(100.0, 1.0), keep(100.0, 2.0), keep(100.0, 3.0), keep(100.0, 0.0))
    server = await served(engine, rule=rule)
    server.worker(work=lambda turn: sleeping(50.0))
    ids = []
    for _ in range(4):
        ids.append(await server.submit(agent(2)))
        await server.until(ids[-1], EventKind.CALL_STARTED, "do0")
        assert retention_of(server).leased_tokens(engine) <= 190
        retention_of(server).check()
    paused = {chain.program for chain in retention_of(server).paused(engine)}
    assert ids[0] not in paused and ids[2] in paused and ids[3] not in paused
    for id in ids:
        await server.follow(id)
    await server.close()


async def test_price_and_evidence_change_what_was_decided() -> None:
    engine = LeasingEngine(kv_tokens=200)
    server = await served(engine)
    server.worker(work=lambda turn: sleeping(400.0))
    id = await server.submit(agent(2))
    await server.until(id, EventKind.CALL_STARTED, "do0")
    retention = retention_of(server)
    await asyncio.sleep(60.0)
    assert len(retention.paused(engine)) == 1, "nobody wants the memory"
    retention.pressure(engine, waiting=10_000, running=1)
    await asyncio.sleep(2.0)
    assert len(retention.paused(engine)) == 0 and outcomes(server) == {"pressure": 1}
    await server.follow(id)
    await server.close()


async def test_no_pause_is_sat_out_for_longer_than_the_ceiling_however_idle_the_memory() -> None:
    engine = LeasingEngine()
    server = await served(engine)
    id = await server.submit(program(agent_call("say0", 0), open=True, outputs=()))
    await server.until(id, EventKind.CALL_ENDED, "say0")
    await asyncio.sleep(590.0)
    assert len(retention_of(server).paused(engine)) == 1
    await asyncio.sleep(20.0)
    assert len(retention_of(server).paused(engine)) == 0 and outcomes(server) == {"expired": 1}
    await server.runtime.cancel(id, tenant=TENANT)
    await server.close()


async def test_whoever_holds_programs_back_hears_what_is_kept() -> None:
    engine = LeasingEngine()
    server = await served(engine, rule=KeepAlways())
    heard: list[tuple[str, int]] = []
    retention_of(server).tell(lambda engine, program, tokens: heard.append((program, tokens)))
    server.worker(work=lambda turn: sleeping(5.0))
    id = await server.submit(agent(2))
    await server.until(id, EventKind.CALL_STARTED, "do0")
    assert heard and heard[-1][0] == id and heard[-1][1] > 0
    retention_of(server).park(engine, id)
    assert heard[-1] == (id, 0)
    await server.follow(id)
    await server.close()


async def test_without_leases_the_books_alone_are_kept() -> None:
    """The hold on new programs reads them, so that an engine without leases is not overfilled."""
    engine = LeasingEngine()
    engine._able = Capabilities(kv_tokens=10_000)
    server = await served(engine, rule=KeepAlways())
    server.worker(work=lambda turn: sleeping(5.0))
    id = await server.submit(agent(2))
    await server.until(id, EventKind.CALL_STARTED, "do0")
    assert retention_of(server).leased_tokens(engine) > 0 and engine.retained == []
    await server.follow(id)
    assert outcomes(server) == {"handoff": 1} and engine.released == []
    await server.close()


async def test_lru_keeps_nothing_and_asks_nothing() -> None:
    engine = LeasingEngine()
    server = await served(engine, rule=make_rule("lru"))
    server.worker(work=lambda turn: sleeping(1.0))
    await server.run(agent(3))
    assert engine.retained == [] and engine.released == [] and outcomes(server) == {}
    assert all(request.hold_s == 0 for request in engine.requests)
    await server.close()


@pytest.mark.parametrize("name", ["tenuto", "keep_always", "continuum_public", "continuum_paper", "thunderagent"])
async def test_every_rule_gives_every_lease_one_outcome(name: str) -> None:
    engine = LeasingEngine(kv_tokens=600, host_tokens=200)
    server = await served(engine, rule=make_rule(name))
    durations = iter([0.2, 3.0, 0.1, 7.0, 0.5] * 40)
    server.worker(work=lambda turn: sleeping(next(durations)))
    ids = [await server.submit(agent(4)) for _ in range(8)]
    for id in ids:
        await server.follow(id)
        retention_of(server).check()
    await asyncio.sleep(0.1)
    (books,) = retention_of(server).snapshot()
    assert books.live == 0 and books.counters.opened == sum(books.counters.ended.values()) > 0
    assert not engine.held
    # the paper's rule knows no tool before its 100th sample: until then it keeps for ln B seconds
    assert books.counters.ended[Outcome.HANDOFF] > 0 or name == "continuum_paper"
    await server.close()


async def test_the_oracle_keeps_exactly_what_pays() -> None:
    engine = LeasingEngine()
    pauses = {"say0": 3.0, "say1": None}
    server = await served(engine, rule=make_rule("oracle", lambda program, call: pauses[call]))
    server.worker(work=lambda turn: sleeping(3.0))
    await server.run(agent(2))
    assert outcomes(server) == {"handoff": 1}
    await server.close()


def test_tier_names_agree() -> None:
    assert {tier.value for tier in Tier} == {tier.value for tier in LedgerTier}
    assert {outcome.value for outcome in LeaseOutcome} == {outcome.value for outcome in Outcome}


class Failing(LeasingEngine):
    """Never answers the calls named `lost`."""

    async def generate(self, request: GenerateRequest) -> AsyncIterator[TokenChunk]:
        if request.call == "lost":
            await asyncio.sleep(1e9)
        async for chunk in super().generate(request):
            yield chunk


async def _paused_then_lost(server: Server) -> str:
    """An open program whose second call comes back to its chain and fails before it runs."""
    server.worker(work=lambda turn: sleeping(1.0))
    id = await server.submit(program(agent_call("say0", 0), open=True, outputs=()))
    await server.until(id, EventKind.CALL_ENDED, "say0")
    await extend(server, id, function("do0", "work", {"turn": 0}, after=("say0",)))
    await server.until(id, EventKind.CALL_ENDED, "do0")
    await extend(server, id, agent_call("lost", 1, timeout_s=10.0))
    await server.until(id, EventKind.CALL_FAILED, "lost")
    return id


async def test_a_lease_whose_call_failed_before_it_ran_is_decided_on_again() -> None:
    engine = Failing()
    server = await served(engine, rule=Planned(keep(5.0), keep(60.0), Plan(0, 0, 0, 0)))
    id = await _paused_then_lost(server)
    retention = retention_of(server)
    assert retention.leased_tokens(engine) > 0 and len(list(retention.victims(engine, 1000))) == 1
    await asyncio.sleep(100.0)
    assert retention.leased_tokens(engine) == 0 and outcomes(server) == {"expired": 1} and not engine.held
    await extend(server, id, agent_call("say1", 1))
    await server.until(id, EventKind.CALL_ENDED, "say1")
    retention.check()
    await server.close()


async def test_what_a_failed_call_left_under_lease_stays_in_the_books_of_the_hold() -> None:
    engine = Failing(kv_tokens=1000)
    server = await served(engine, rule=Planned(keep(500.0)), policy="tenuto")
    await _paused_then_lost(server)
    hold = server.runtime._services.priorities.gate(engine).hold
    assert hold.used == retention_of(server).leased_tokens(engine) > 0
    hold.check()
    await server.close()


async def test_a_rule_that_does_not_reconsider_is_not_asked_again_when_the_price_moves() -> None:
    engine = LeasingEngine(kv_tokens=400)
    rule = Planned(keep(50.0), Plan(0, 0, 0, 0))
    server = await served(engine, rule=rule, policy="tenuto")
    server.worker(work=lambda turn: sleeping(20.0))
    first = await server.submit(agent(2))
    await asyncio.sleep(5.0)
    retention_of(server).pressure(engine, 1000, 1)
    await asyncio.sleep(5.0)
    assert len(rule.seen) == 1 and retention_of(server).leased_tokens(engine) > 0
    await server.follow(first)
    await server.close()


async def test_durations_of_a_program_that_has_ended_are_not_kept_for_it_alone() -> None:
    rule = Tenuto()
    server = await served(LeasingEngine(), rule=rule)
    server.worker(work=lambda turn: 1, last=lambda: 2)
    for _ in range(5):
        done = agent(2).graph.calls
        await server.run(program(*done, function("z", "last", after=("say1",)), outputs=("z",)))
    assert not rule.model._private.by_key
    await server.close()
