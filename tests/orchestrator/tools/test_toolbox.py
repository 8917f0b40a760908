"""The rules under which tools run: caps, queues, shared and kept reads, timeouts. In virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.limits import Limits
from orchestrator.tools import CallFailure, Toolbox, ToolRun, WorkerPool, sharing
from orchestrator.tools.caps import Caps
from orchestrator.tools.runs import canonical
from orchestrator.virtual_time import VirtualClock, VirtualTimeLoop
from tenuto.wire import EffectClass, ToolSpec

READ = EffectClass.READ


class Host:
    """Tools that take a second each. `ran` lists what began and when, `most` is how many ran at once."""

    name = "host"

    def __init__(self, *specs: ToolSpec, max_running: int | None = None) -> None:
        self.specs: Mapping[str, ToolSpec] = {spec.name: spec for spec in specs}
        self.max_running = max_running
        self.ran: list[tuple[float, str, Any]] = []
        self.running = self.most = self.cancelled = 0
        self.fault: CallFailure | None = None

    async def start(self) -> None:
        return

    async def close(self) -> None:
        return

    async def run(self, run: ToolRun, spec: ToolSpec) -> Any:
        self.ran.append((now(), run.call, run.arguments.get("x")))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(float(run.arguments.get("seconds", 1.0)))  # type: ignore[arg-type]
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        if self.fault is not None:
            raise self.fault
        return {"x": run.arguments.get("x"), "at": now()}


def now() -> float:
    return asyncio.get_running_loop().time()


async def toolbox(host: Host, **limits: Any) -> Toolbox:
    known = Limits(**limits)
    pool = WorkerPool(limits=known, rng=Random(0))
    box = Toolbox(pool, clock=VirtualClock(), limits=known, hosts=[host])
    await box.start()
    return box


def ask(
    box: Toolbox, call: str = "c", *, tool: str = "f", started: Callable[[], None] = lambda: None, **options: Any
) -> asyncio.Task[Any]:
    arguments = options.pop("arguments", {"x": call})
    intend = options.pop("intend", None)
    run = ToolRun(program="p", call=call, tool=tool, tenant="t", toolset="", arguments=arguments, attempt=1)
    return asyncio.create_task(box.run(run._replace(**options), started, intend))  # type: ignore[arg-type]


# -- caps ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "limits", "most"),
    [
        (Host(ToolSpec(name="f", effect=READ, max_running=3)), {}, 3),
        (Host(ToolSpec(name="f", effect=READ), max_running=2), {}, 2),
        (Host(ToolSpec(name="f", effect=READ)), {"program_functions": 4}, 4),
        (Host(ToolSpec(name="f", effect=READ)), {"tenant_functions": 5}, 5),
        (Host(ToolSpec(name="f", effect=READ)), {"functions": 6}, 6),
    ],
)
async def test_each_cap_holds_and_nobody_waits_while_there_is_room(
    host: Host, limits: dict[str, int], most: int
) -> None:
    box = await toolbox(host, **limits)
    tasks = [ask(box, f"c{i:02}") for i in range(20)]
    await asyncio.gather(*tasks)
    assert host.most == most
    assert [call for _, call, _ in host.ran] == [f"c{i:02}" for i in range(20)]  # in order of arrival
    assert now() == pytest.approx(-(-20 // most))
    assert box.caps.held == ()


async def test_what_waits_for_room_goes_by_the_policys_key() -> None:
    host = Host(ToolSpec(name="f", effect=READ, max_running=1))
    box = await toolbox(host)
    tasks = [
        ask(box, "first"),
        ask(box, "late", key=(5.0,)),
        ask(box, "soon", key=(1.0,)),
        ask(box, "also", key=(1.0,)),
    ]
    await asyncio.gather(*tasks)
    assert [call for _, call, _ in host.ran] == ["first", "soon", "also", "late"]


async def test_a_call_that_is_cancelled_in_the_queue_or_at_its_turn_leaves_no_trace() -> None:
    host = Host(ToolSpec(name="f", effect=READ, max_running=1))
    box = await toolbox(host, tenant_functions=1)
    first, second, third = ask(box, "1"), ask(box, "2"), ask(box, "3")
    await asyncio.sleep(0.5)
    second.cancel()
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first, second])
    await third
    assert [call for _, call, _ in host.ran] == ["1", "3"] and host.cancelled == 1
    assert box.caps.held == ()


@pytest.mark.parametrize("turns", [0, 1, 2])
async def test_what_was_begun_on_a_part_and_dropped_gives_its_room_back_even_before_its_first_step(turns: int) -> None:
    host = Host(ToolSpec(name="f", effect=READ, partial=("x",), max_running=1))
    box = await toolbox(host)
    assert box.begin(ToolRun("p", "c", "f", "t", "", {}, 1), "x") is not None
    for _ in range(turns):
        await asyncio.sleep(0)
    box.partial.drop("p", "c")
    await ask(box, "next")
    assert [call for _, call, _ in host.ran][-1] == "next" and box.caps.held == ()


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 4), st.booleans()), max_size=30),
    st.integers(1, 3),
)
def test_caps_give_back_what_they_took(calls: list[tuple[str, int, bool]], most: int) -> None:
    async def run() -> None:
        caps = Caps()
        inside = {"a": 0, "b": 0, "c": 0, "all": 0}

        async def one(name: str, seconds: int) -> None:
            wanted = [(name, most), ("all", most + 1)]
            if not caps.try_enter(wanted):
                await caps.enter(wanted)
            for cap in (name, "all"):
                inside[cap] += 1
            assert inside[name] <= most and inside["all"] <= most + 1
            try:
                await asyncio.sleep(seconds)
            finally:
                for cap in (name, "all"):
                    inside[cap] -= 1
                caps.leave(wanted)

        tasks = [asyncio.create_task(one(name, seconds)) for name, seconds, _ in calls]
        await asyncio.sleep(0.5)
        for task, (_, _, cancel) in zip(tasks, calls, strict=True):
            if cancel:
                task.cancel()
                await asyncio.sleep(0.1)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not any(isinstance(task.exception(), AssertionError) for task in tasks if not task.cancelled())
        assert caps.held == ()

    loop = VirtualTimeLoop()
    loop.run_until_complete(run())
    loop.close()


# -- times --------------------------------------------------------------------------------------


async def test_a_call_that_finds_no_room_in_time_is_told_and_costs_no_place() -> None:
    host = Host(ToolSpec(name="f", effect=READ, max_running=1, queue_timeout_s=0.3))
    box = await toolbox(host)
    first = ask(box, "1")
    with pytest.raises(CallFailure, match=r"0\.3 s") as caught:
        await ask(box, "2")
    assert (caught.value.type, caught.value.retryable, now()) == ("queue_timeout", True, 0.3)
    await first
    await ask(box, "3")


async def test_an_attempt_ends_at_its_timeout_or_at_the_calls_deadline() -> None:
    host = Host(ToolSpec(name="f", effect=READ, timeout_s=10.0))
    box = await toolbox(host)
    for options, at_s in (({}, 10.0), ({"timeout_s": 2.0}, 12.0), ({"deadline_s": 15.0}, 15.0)):
        with pytest.raises(CallFailure) as caught:
            await ask(box, arguments={"seconds": 60.0}, **options)
        assert (caught.value.type, now()) == ("timeout", at_s)
    assert host.cancelled == 3


async def test_a_tool_without_a_timeout_that_never_returns_ends_at_the_servers_limit() -> None:
    host = Host(ToolSpec(name="f", effect=READ))
    box = await toolbox(host, function_s=100.0)
    first = ask(box, "1", arguments={"seconds": 1e9})
    await asyncio.sleep(60.0)
    second, short = ask(box, "2", arguments={"seconds": 1e8}), ask(box, "3", arguments={"seconds": 30.0})
    for task, at_s in ((first, 100.0), (second, 160.0)):
        with pytest.raises(CallFailure, match=r"100 s \(limits.function_s\)") as caught:
            await task
        assert (caught.value.type, now()) == ("timeout", at_s)
    assert (await short)["at"] == 90.0
    mine = ask(box, "4", arguments={"seconds": 1e7})
    await asyncio.sleep(1.0)
    mine.cancel()
    with pytest.raises(asyncio.CancelledError):
        await mine
    await box.close()


# -- reads that are shared and kept ----------------------------------------------------------------


async def test_equal_reads_under_way_share_one_run_and_different_ones_do_not() -> None:
    host = Host(ToolSpec(name="f", effect=READ), ToolSpec(name="own", effect=READ, share=False))
    box = await toolbox(host)
    began: list[str] = []
    same = [ask(box, f"c{i}", arguments={"a": 1, "b": 2}, started=lambda: began.append("")) for i in range(3)]
    same.append(ask(box, "d", arguments={"b": 2, "a": 1}, started=lambda: began.append("")))
    other = ask(box, "e", arguments={"a": 1, "b": 3})
    elsewhere = ask(box, "g", arguments={"a": 1, "b": 2}, tenant="another")
    alone = [ask(box, f"o{i}", tool="own", arguments={}) for i in range(2)]
    results = await asyncio.gather(*same)
    await asyncio.gather(other, elsewhere, *alone)
    assert results == [results[0]] * 4 and len(began) == 4
    assert sorted(call for _, call, _ in host.ran) == ["c0", "e", "g", "o0", "o1"]


async def test_a_shared_run_that_fails_fails_for_all_and_the_next_runs_anew() -> None:
    host = Host(ToolSpec(name="f", effect=READ))
    box = await toolbox(host)
    host.fault = CallFailure("down", "it is down", retryable=True, lost=True)
    tasks = [ask(box, f"c{i}", arguments={}) for i in range(3)]
    for task in tasks:
        with pytest.raises(CallFailure) as caught:
            await task
        assert (caught.value.type, caught.value.retryable, caught.value.lost) == ("down", True, True)
    host.fault = None
    await ask(box, "again", arguments={})
    assert len(host.ran) == 2


async def test_when_the_one_that_runs_is_cancelled_another_takes_over() -> None:
    host = Host(ToolSpec(name="f", effect=READ))
    box = await toolbox(host)
    first, second, third = (ask(box, name, arguments={}) for name in ("1", "2", "3"))
    await asyncio.sleep(0.5)
    first.cancel()
    second_result, third_result = await asyncio.gather(second, third)
    assert second_result == third_result and now() == 1.5
    assert [call for _, call, _ in host.ran] == ["1", "2"]
    lone, follower = ask(box, "4", arguments={}), ask(box, "5", arguments={})
    await asyncio.sleep(0.5)
    follower.cancel()  # leaves the one that runs alone
    await lone
    assert host.cancelled == 1


async def test_a_read_made_after_a_write_never_shares_a_run_from_before_it() -> None:
    host = Host(ToolSpec(name="f", effect=READ), ToolSpec(name="w", effect=EffectClass.WRITE))
    box = await toolbox(host)

    async def intend() -> None:
        return

    before = ask(box, "before", arguments={"seconds": 5.0})
    await ask(box, "write", tool="w", intend=intend, arguments={})
    after = ask(box, "after", arguments={"seconds": 5.0})
    await asyncio.gather(before, after)
    assert [call for _, call, _ in host.ran] == ["before", "write", "after"]


async def test_kept_results_are_given_until_they_are_old_or_something_was_written() -> None:
    host = Host(ToolSpec(name="f", effect=READ, cache_s=10.0), ToolSpec(name="w", effect=EffectClass.WRITE))
    box = await toolbox(host)

    async def intend() -> None:
        return

    first = await ask(box, "1", arguments={})
    assert await ask(box, "2", arguments={}) == first and now() == 1.0
    await asyncio.sleep(10.0)
    assert await ask(box, "3", arguments={}) != first
    await ask(box, "w", tool="w", intend=intend, arguments={})
    await ask(box, "4", arguments={})
    assert [call for _, call, _ in host.ran] == ["1", "3", "w", "4"]
    assert box.reads.hits == 1


async def test_of_many_places_that_wrote_only_the_latest_are_remembered_and_nothing_older_than_a_write_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sharing, "_PLACES", 3)
    reads = sharing.ReadResults(VirtualClock(), limit_bytes=10_000)
    first, quiet = (sharing.ReadKey("t", place, "f", b"{}") for place in ("toolset:0", "host:h"))
    reads.keep(first, "before", 60.0, reads.writes)
    for n in range(9):
        reads.wrote("t", f"toolset:{n}")
        assert reads.known(first) is None
        reads.keep(quiet, n, 60.0, reads.writes)
        reads.wrote("t", f"toolset:{n}")
        assert reads.known(quiet) == (n,)
        reads.keep(first, "before", 60.0, 0)
    assert len(reads._last_writes) == 3


async def test_what_is_kept_is_bounded_and_the_least_used_goes_first() -> None:
    host = Host(ToolSpec(name="f", effect=READ, cache_s=1000.0))
    box = await toolbox(host, tool_cache_bytes=60)
    for x in ("a", "b", "c", "a", "d", "a", "b"):
        await ask(box, x, arguments={"x": x})
        assert box.reads.bytes <= 60
    assert [x for _, _, x in host.ran] == ["a", "b", "c", "d", "b"]


# -- names --------------------------------------------------------------------------------------


async def test_an_idempotency_key_depends_on_call_and_arguments_and_not_on_order_or_attempt() -> None:
    run = ToolRun("p", "c", "f", "t", "", {"a": 1, "b": {"d": 2**70, "c": "é"}}, 1)
    assert (
        run.idempotency_key == run._replace(arguments={"b": {"c": "é", "d": 2**70}, "a": 1}, attempt=2).idempotency_key
    )
    others = [run._replace(program="q"), run._replace(call="d"), run._replace(arguments={"a": 2})]
    assert len({run.idempotency_key, *(other.idempotency_key for other in others)}) == 4
    assert canonical({"b": 1, "a": "x"}) == b'{"a":"x","b":1}'


async def test_two_hosts_cannot_offer_one_name_and_a_toolset_goes_before_the_server() -> None:
    one, two = Host(ToolSpec(name="f")), Host(ToolSpec(name="f"))
    limits = Limits()
    pool = WorkerPool(limits=limits, rng=Random(0))
    box = Toolbox(pool, clock=VirtualClock(), limits=limits, hosts=[one, two])
    with pytest.raises(ValueError, match="offered by 'host' and by 'host'"):
        await box.start()
    assert [(tool.toolset, tool.spec.name) for tool in (await toolbox(one)).tools("t")] == [("server", "f")]


async def test_a_tool_that_nobody_can_ever_offer_fails_at_once_and_names_those_there_are() -> None:
    box = await toolbox(Host(ToolSpec(name="read", effect=READ)))
    with pytest.raises(CallFailure, match=r"nobody offers tool 'reed': .* there are 'read'") as caught:
        await ask(box, tool="reed")
    assert caught.value.type == "no_worker" and now() == 0.0
    await box.close()
