"""Every second of a program's life has a cause, and the critical path is the chain that its end waited for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from engine.protocol import EngineLost, GenerateRequest, TokenChunk, Usage
from tenuto.wire import EffectClass, GraphExtension, Retry, Timeline
from tests.orchestrator.runtime.support import TENANT, Break, Say, Server, function, llm, program, sequence, var
from tests.orchestrator.runtime.test_planning import Planner, Tools, plan, work


def _spans(timeline: Timeline, call: str) -> list[tuple[str, float, float]]:
    found = next(c for c in timeline.calls if c.id == call)
    return [(s.cause, pytest.approx(s.start_s), pytest.approx(s.end_s)) for s in found.spans]  # type: ignore[misc]


async def test_seconds_of_calls_are_attributed_without_gaps(server: Server) -> None:
    server.engine.script = lambda request: Say("x y", seconds=4.0, queue_s=2.0)
    server.worker(look=lambda text: asyncio.sleep(3.0))
    view = await server.run(program(llm("a"), function("t", "look", {"text": var("a")}), llm("b", var("t"))))
    timeline = server.runtime.timeline(view.id, tenant=TENANT)
    assert _spans(timeline, "a") == [("queue", 0.0, 2.0), ("decode", 2.0, 6.0)]
    assert _spans(timeline, "t") == [("tool", 6.0, 9.0)]
    assert _spans(timeline, "b") == [("queue", 9.0, 11.0), ("decode", 11.0, 15.0)]
    assert timeline.critical_path == ("a", "t", "b") and timeline.seconds == pytest.approx(15.0)
    a = timeline.calls[0]
    assert (a.prompt_tokens, a.output_tokens, a.attempts, a.after) == (2, 2, 1, ())
    assert timeline.calls[2].after == ("t",)


async def test_the_critical_path_goes_by_the_slowest_branch(server: Server) -> None:
    server.engine.script = lambda request: Say("x", seconds={"slow": 9.0}.get(request.call, 1.0))
    view = await server.run(
        program(llm("a"), llm("fast", var("a")), llm("slow", var("a")), llm("z", var("fast"), var("slow")))
    )
    assert server.runtime.timeline(view.id, tenant=TENANT).critical_path == ("a", "slow", "z")


async def test_waiting_for_a_turn_a_worker_or_another_attempt_is_told_apart(server: Server) -> None:
    worker = server.worker(write=lambda n: asyncio.sleep(5.0), concurrency=1)
    calls = [function(f"w{n}", "write", {"n": n}, effect=EffectClass.EXCLUSIVE) for n in range(2)]
    view = await server.run(program(*calls))
    timeline = server.runtime.timeline(view.id, tenant=TENANT)
    assert _spans(timeline, "w1") == [("queue", 0.0, 5.0), ("tool", 5.0, 10.0)]
    assert len(worker.ran) == 2

    server.engine.script = sequence(Break(EngineLost("x"), after_s=2.0), Say("x", seconds=1.0))
    view = await server.run(program(llm("a", retry=Retry(attempts=2))))
    causes = [span.cause for span in server.runtime.timeline(view.id, tenant=TENANT).calls[0].spans]
    assert causes == ["queue", "pause", "decode"]


async def test_time_in_the_client_between_calls_is_the_clients(server: Server) -> None:
    server.engine.script = lambda request: Say("x", seconds=1.0)
    id = await server.submit(program(llm("a"), open=True))
    await asyncio.sleep(4.0)
    await server.runtime.extend(id, GraphExtension(calls=(llm("b", var("a")),), seal=True), tenant=TENANT)
    await server.follow(id)
    timeline = server.runtime.timeline(id, tenant=TENANT)
    assert _spans(timeline, "b") == [("client", 1.0, 4.0), ("decode", 4.0, 5.0)]
    covered = sum(s.end_s - s.start_s for call in timeline.calls for s in call.spans)
    assert covered == pytest.approx(timeline.seconds)


async def test_seconds_of_cancelled_calls_are_counted_once(server: Server) -> None:
    server.engine.script = lambda request: Say("one two", seconds=100.0)
    server.worker(slow=lambda: asyncio.sleep(100.0))
    id = await server.submit(program(llm("a"), function("t", "slow"), llm("b", var("a"))))
    await asyncio.sleep(7.0)
    await server.runtime.cancel(id, tenant=TENANT)
    await asyncio.sleep(1.0)
    timeline = server.runtime.timeline(id, tenant=TENANT)
    assert [_spans(timeline, call) for call in ("a", "t", "b")] == [[("decode", 0.0, 7.0)], [("tool", 0.0, 7.0)], []]


async def test_an_engines_account_never_exceeds_what_passed(server: Server) -> None:
    """An engine with a clock of its own may tell more seconds than there were."""
    from orchestrator.runtime.calls import CallRun

    run = CallRun(llm("a"), told_s=5.0)
    run.account("queue", 4.0)
    assert run.spans == [] and run.told_s == 5.0
    server.engine.script = lambda request: Say("x", seconds=1.0)
    view = await server.run(program(llm("a")))
    usage = server.program(view.id).calls["a"].usage
    assert isinstance(usage, Usage) and usage.decode_s == 1.0
    spans = server.runtime.timeline(view.id, tenant=TENANT).calls[0].spans
    assert max(span.end_s for span in spans) == pytest.approx(view.seconds)


async def test_statistics_learn_what_stages_take_and_requests_carry_the_expectation(server: Server) -> None:
    server.engine.script = lambda request: Say("one two three", seconds=3.0)
    for _ in range(3):
        await server.run(program(llm("a", stage="write")))
    first, *_, last = server.engine.requests
    assert (first.expected_tokens, last.expected_tokens) == (0, 3)


async def test_the_critical_path_of_a_running_program_goes_by_what_its_stages_are_expected_to_take(
    server: Server,
) -> None:
    server.engine.script = lambda request: Say("x", seconds={"slow": 9.0}.get(request.stage, 1.0))
    calls = (llm("a"), llm("b", var("a")), llm("c", var("a"), stage="slow"), llm("d", var("a"), expected_s=5.0))
    id = await server.submit(program(*calls))
    assert server.runtime.timeline(id, tenant=TENANT).critical_path == ("a", "d")
    await server.follow(id)
    id = await server.submit(program(*calls))
    assert server.runtime.timeline(id, tenant=TENANT).critical_path == ("a", "c")


async def test_a_call_that_had_to_wait_for_an_effect_says_for_whose(server: Server) -> None:
    server.worker(write=lambda n: asyncio.sleep(5.0))
    calls = [function(f"w{n}", "write", {"n": n}, effect=EffectClass.EXCLUSIVE) for n in range(3)]
    view = await server.run(program(*calls))
    timeline = server.runtime.timeline(view.id, tenant=TENANT)
    assert [call.behind for call in timeline.calls] == [(), ("w0",), ("w1",)]


@pytest.mark.parametrize(
    ("preemptions", "why"), [(0, "unleased"), (1, "preempted")]
)  # leases that ended are tested where there are some
async def test_what_was_read_again_is_told_with_the_reason(server: Server, preemptions: int, why: str) -> None:
    usage = Usage(100, 0, 1, 0.0, 4.0, 2.0, preemptions=preemptions, recomputed_tokens=25)
    generate = server.engine.generate

    async def reading_again(request: GenerateRequest) -> AsyncIterator[TokenChunk]:
        async for chunk in generate(request):
            yield chunk if chunk.usage is None else replace(chunk, usage=usage)

    server.engine.generate = reading_again  # type: ignore[method-assign]
    server.engine.script = lambda request: Say("x", seconds=6.0)
    view = await server.run(program(llm("a")))
    call = server.runtime.timeline(view.id, tenant=TENANT).calls[0]
    assert _spans(server.runtime.timeline(view.id, tenant=TENANT), "a") == [
        ("recompute", 0.0, 1.0),
        ("prefill", 1.0, 4.0),
        ("decode", 4.0, 6.0),
    ]
    assert call.recompute is not None and call.recompute.model_dump() == {"tokens": 25, "why": why, "left_by": None}


async def test_calls_that_a_plan_made_waited_for_it() -> None:
    """No edge of the graph says so: the path goes on from a planned call to the text that made it."""
    server = await Server(Planner([(2.0, '1. search("a")\n'), (0.5, "2. join()")])).start()
    work(server, Tools(lambda: 0.0))
    view = await server.run(plan())
    timeline = server.runtime.timeline(view.id, tenant=TENANT)
    assert timeline.calls[1].after == ("plan",) and timeline.critical_path == ("plan", "plan-1")
    assert timeline.causes == pytest.approx({"decode": 2.0, "tool": 1.0})
    assert sum(timeline.causes.values()) == pytest.approx(timeline.seconds) == pytest.approx(3.0)
    await server.close()


async def test_an_open_programs_client_has_the_time_until_its_seal(server: Server) -> None:
    server.engine.script = lambda _: Say("x", seconds=1.0)
    id = await server.submit(program(llm("a"), open=True))
    await asyncio.sleep(3.0)
    assert server.runtime.timeline(id, tenant=TENANT).causes == pytest.approx({"client": 2.0, "decode": 1.0})
    await server.runtime.extend(id, GraphExtension(seal=True), tenant=TENANT)
    timeline = server.runtime.timeline(id, tenant=TENANT)
    assert timeline.causes == pytest.approx({"client": 2.0, "decode": 1.0}) and timeline.seconds == pytest.approx(3.0)
