"""What goes wrong in one call: retried if that can help, told by its name, and paid for by its descendants alone."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from engine.protocol import EngineLost, FinishReason, GenerateRequest, NumericalFault, PromptTooLong, QueueFull
from orchestrator.limits import Limits
from orchestrator.scheduling import Changes
from tenuto.wire import (
    EffectClass,
    EventKind,
    GrammarConstraint,
    JsonType,
    ProgramStatus,
    Retry,
    Sampling,
    TextType,
    ToolSpec,
)
from tests.orchestrator.runtime.support import (
    TENANT,
    Answer,
    Break,
    Hang,
    Say,
    ScriptedEngine,
    Server,
    ToolError,
    errors,
    function,
    kinds,
    llm,
    program,
    sequence,
    states,
    values,
    var,
)


def _fails(call: str) -> Answer:
    return Break(NumericalFault("NaN")) if call.startswith("bad") else "fine"


async def test_a_failed_branch_skips_its_descendants_and_leaves_its_siblings(server: Server) -> None:
    server.engine.script = lambda request: _fails(request.call)
    view = await server.run(
        program(
            llm("bad"),
            llm("child", var("bad")),
            llm("grandchild", var("child")),
            llm("good"),
            llm("after", var("good")),
        )
    )
    assert states(view) == {
        "bad": "failed",
        "child": "skipped",
        "grandchild": "skipped",
        "good": "ended",
        "after": "ended",
    }
    assert view.status is ProgramStatus.FAILED
    assert view.error is not None and (view.error.type, view.error.call) == ("numerical_fault", "bad")
    assert view.outputs["grandchild"].error is not None
    assert view.outputs["grandchild"].error.call == "bad"
    assert values(view) == {"good": "fine", "after": "fine"}


async def test_a_failure_that_no_output_needs_leaves_the_program_successful(server: Server) -> None:
    server.engine.script = lambda request: _fails(request.call)
    view = await server.run(program(llm("bad"), llm("good"), outputs=("good",)))
    assert (view.status, view.error) == (ProgramStatus.SUCCEEDED, None)
    assert errors(view) == {"bad": "numerical_fault"}


async def test_calls_declared_below_a_failed_one_are_skipped_at_once(server: Server) -> None:
    from tenuto.wire import GraphExtension

    server.engine.script = lambda request: _fails(request.call)
    id = await server.submit(program(llm("bad"), open=True, outputs=()))
    await server.until(id, EventKind.CALL_FAILED, "bad")
    late = GraphExtension(calls=(llm("late", var("bad")),), outputs=("late",), seal=True)
    await server.runtime.extend(id, late, tenant=TENANT)
    view = server.view(id)
    assert states(view) == {"bad": "failed", "late": "skipped"}
    assert view.status is ProgramStatus.FAILED
    waited = await server.runtime.variable(id, "late", tenant=TENANT, wait_s=1.0)
    assert waited.status == "failed" and waited.error is not None and waited.error.call == "bad"


async def test_retries_wait_longer_each_time_and_at_most_as_promised(server: Server) -> None:
    server.engine.script = lambda _: Break(QueueFull("full"))
    retry = Retry(attempts=6, first_wait_s=1.0, max_wait_s=5.0)
    events = await server.follow(await server.submit(program(llm("a", retry=retry))))
    starts = [event.at_s for event in events if event.kind is EventKind.CALL_STARTED]
    waits = [after - before for before, after in pairwise(starts)]
    assert len(starts) == 6
    for wait, longest in zip(waits, [1.0, 2.0, 4.0, 5.0, 5.0], strict=True):
        assert longest / 2 <= wait <= longest
    assert waits != sorted(set(map(round, waits)))  # jittered
    failed = next(event for event in events if event.kind is EventKind.CALL_FAILED)
    assert failed.error is not None and (failed.error.type, failed.error.attempts) == ("queue_full", 6)


async def test_a_retry_that_succeeds_is_all_that_is_seen_of_the_failure(server: Server) -> None:
    server.engine.script = sequence(Break(QueueFull("full"), text="half of "), "whole")
    id = await server.submit(program(llm("a", retry=Retry(attempts=2))))
    events = await server.follow(id)
    assert values(server.view(id)) == {"a": "whole"}
    pieces = [(event.attempt, event.text) for event in events if event.kind is EventKind.CALL_TOKENS]
    assert pieces == [(1, "half of "), (2, "whole")]
    retrying = next(event for event in events if event.kind is EventKind.CALL_RETRYING)
    assert retrying.attempt == 1 and retrying.error is not None and retrying.error.type == "queue_full"


async def test_errors_that_cannot_go_away_are_not_retried(server: Server) -> None:
    server.engine.script = lambda _: Break(PromptTooLong("9000 tokens, the model takes 4096"))
    view = await server.run(program(llm("a", retry=Retry(attempts=5))))
    assert len(server.engine.requests) == 1
    assert view.error is not None and "4096" in view.error.message


async def test_a_timeout_aborts_the_generation_and_the_next_attempt_may_succeed(server: Server) -> None:
    server.engine.script = sequence(Hang("never "), "now")
    view = await server.run(program(llm("a", timeout_s=30.0, retry=Retry(attempts=2, first_wait_s=2.0))))
    assert values(view) == {"a": "now"}
    assert server.engine.aborted == [server.engine.requests[0].id]
    assert 31.0 <= view.seconds <= 32.0


async def test_a_timeout_without_retry_is_an_error_of_that_name(server: Server) -> None:
    server.engine.script = lambda _: Hang()
    view = await server.run(program(llm("a", timeout_s=30.0)))
    assert errors(view) == {"a": "timeout"} and view.seconds == pytest.approx(30.0)
    assert not server.engine.running


async def test_an_engines_own_timeout_error_is_not_mistaken_for_the_calls(server: Server) -> None:
    server.engine.script = lambda _: Break(TimeoutError("inside the engine"))
    view = await server.run(program(llm("a", timeout_s=30.0)))
    assert errors(view) == {"a": "internal_error"}


async def test_calls_of_an_engine_that_died_run_again_beyond_their_attempts(server: Server) -> None:
    server.engine.script = sequence(
        Break(EngineLost("killed"), text="lost "), Break(EngineLost("killed again")), "found"
    )
    events = await server.follow(id := await server.submit(program(llm("a"))))
    assert values(server.view(id)) == {"a": "found"}
    assert kinds(events, "a").count(EventKind.CALL_RETRYING) == 2
    first, second, third = server.engine.requests
    assert first.sampling.seed == second.sampling.seed == third.sampling.seed
    assert len({first.id, second.id, third.id}) == 3


async def test_an_engine_that_always_dies_ends_the_call_after_a_bound(server: Server) -> None:
    server.engine.script = lambda _: Break(EngineLost("killed"))
    view = await server.run(program(llm("a")))
    assert errors(view) == {"a": "engine_lost"}
    assert len(server.engine.requests) == server.limits.lost_reruns + 1


async def test_output_that_breaks_its_schema_is_tried_again_with_another_seed(server: Server) -> None:
    server.engine.script = sequence("no json", '{"n": "text"}', '{"n": 1}')
    schema = JsonType(json_schema={"type": "object", "properties": {"n": {"type": "integer"}}})
    call = llm("a", type=schema, retry=Retry(attempts=3), sampling=Sampling(seed=7, temperature=1.0))
    view = await server.run(program(call))
    assert values(view) == {"a": {"n": 1}}
    seeds = [request.sampling.seed for request in server.engine.requests]
    assert seeds[0] == 7 and len(set(seeds)) == 3


async def test_output_that_stays_invalid_says_where_and_why(server: Server) -> None:
    server.engine.script = lambda _: Say('{"n": ', finish=FinishReason.LENGTH)
    view = await server.run(program(llm("a", type=JsonType(json_schema={"type": "object"}))))
    assert view.error is not None and view.error.type == "output_invalid"
    assert "max_tokens" in view.error.message


async def test_seeds_of_siblings_without_seeds_differ_and_do_not_depend_on_the_order(server: Server) -> None:
    await server.run(program(*(llm(f"c{i}") for i in range(8))))
    assert len({request.sampling.seed for request in server.engine.requests}) == 8


async def test_a_reference_that_leads_nowhere_names_the_step(server: Server) -> None:
    server.worker(get=lambda: {"rows": []})
    view = await server.run(program(function("get", "get"), llm("tell", var("get", "rows", 0))))
    assert errors(view) == {"tell": "path_missing"}
    assert view.error is not None and "/rows/0" in view.error.message


async def test_a_prompt_that_grew_too_large_is_refused_before_the_engine_sees_it() -> None:
    server = await Server(limits=Limits(prompt_bytes=1000)).start()
    server.worker(big=lambda: "é" * 400)
    text = TextType()
    small = await server.run(program(function("big", "big", type=text), llm("tell", var("big"))))
    assert states(small)["tell"] == "ended"
    large = await server.run(program(function("big", "big", type=text), llm("tell", var("big"), var("big"))))
    assert errors(large) == {"tell": "prompt_too_large"}
    assert len(server.engine.requests) == 1
    await server.close()


async def test_an_output_larger_than_a_value_may_be_aborts_the_generation() -> None:
    server = await Server(ScriptedEngine(lambda _: Say("word " * 1000)), limits=Limits(value_bytes=1000)).start()
    view = await server.run(program(llm("a")))
    assert errors(view) == {"a": "output_too_large"}
    assert len(server.engine.aborted) == 1
    await server.close()


async def test_a_constraint_that_the_engine_cannot_hold_is_refused_and_json_is_checked_instead() -> None:
    server = await Server(ScriptedEngine(lambda _: "3", grammar=False)).start()
    view = await server.run(
        program(llm("a", constraint=GrammarConstraint(lark='start: "x"')), llm("b", type=JsonType()))
    )
    assert errors(view) == {"a": "constraint_unsupported"} and values(view) == {"b": 3}
    assert [request.grammar for request in server.engine.requests] == [None]
    await server.close()


async def test_a_fault_of_the_server_itself_fails_the_one_call(server: Server) -> None:
    def script(request: GenerateRequest) -> Answer:
        if request.call == "bad":
            raise ZeroDivisionError
        return "fine"

    server.engine.script = script
    view = await server.run(program(llm("bad"), llm("good")))
    assert errors(view) == {"bad": "internal_error"} and values(view) == {"good": "fine"}


async def test_a_policy_that_raises_fails_calls_and_never_leaves_a_program_hanging(server: Server) -> None:
    from tests.orchestrator.runtime.test_priorities import Recorder

    class Broken(Recorder):
        def call_ended(self, call: object, now: float) -> Changes:
            raise ZeroDivisionError

    server = await Server(policy=Broken()).start()
    view = await server.run(program(llm("a"), llm("b", var("a"))))
    assert errors(view) == {"a": "internal_error", "b": "skipped"}
    await server.close()


# -- tools --------------------------------------------------------------------------------------


async def test_a_tool_that_raises_fails_its_call_and_no_sibling(server: Server) -> None:
    def broken() -> None:
        raise ToolError("tool_error")

    server.worker(broken=broken, fine=lambda: 1)
    view = await server.run(program(function("a", "broken"), *(function(f"b{i}", "fine") for i in range(5))))
    assert errors(view) == {"a": "tool_error"} and len(values(view)) == 5


async def test_a_tools_own_retry_and_timeout_count_unless_the_call_says_otherwise(server: Server) -> None:
    spec = ToolSpec(name="flaky", effect=EffectClass.READ, retry=Retry(attempts=3, first_wait_s=0.0), timeout_s=5.0)

    async def flaky() -> int:
        if len(worker.ran) < 3:
            raise ToolError("tool_error")
        return len(worker.ran)

    worker = server.worker(specs=(spec,), flaky=flaky)
    view = await server.run(program(function("a", "flaky")))
    assert values(view) == {"a": 3}
    worker.ran.clear()
    view = await server.run(program(function("a", "flaky", retry=Retry(attempts=2, first_wait_s=0.0))))
    assert errors(view) == {"a": "tool_error"}

    async def hang() -> None:
        await asyncio.sleep(1000)

    server.worker(specs=(spec.model_copy(update={"name": "hang"}),), hang=hang)
    view = await server.run(program(function("a", "hang", retry=Retry())))
    assert errors(view) == {"a": "timeout"} and view.seconds == pytest.approx(5.0)


async def test_a_tool_error_that_is_not_retryable_is_final(server: Server) -> None:
    def broken() -> None:
        raise ToolError("arguments_invalid", retryable=False)

    worker = server.worker(broken=broken)
    view = await server.run(program(function("a", "broken", retry=Retry(attempts=5))))
    assert errors(view) == {"a": "arguments_invalid"} and len(worker.ran) == 1


@pytest.mark.parametrize(("idempotent", "runs"), [(False, 1), (True, 3)])
async def test_an_effect_that_timed_out_runs_again_only_if_it_is_idempotent(
    server: Server, idempotent: bool, runs: int
) -> None:
    worker = server.worker(write=lambda: asyncio.sleep(1000))
    call = function(
        "a", "write", effect=EffectClass.EXCLUSIVE, idempotent=idempotent, timeout_s=1.0, retry=Retry(attempts=3)
    )
    view = await server.run(program(call))
    assert errors(view) == {"a": "timeout"} and len(worker.ran) == runs
    assert view.error is not None and ("unknown" in view.error.message) is not idempotent


@pytest.mark.parametrize(
    ("effect", "idempotent", "again"),
    [(EffectClass.READ, False, True), (EffectClass.EXCLUSIVE, True, True), (EffectClass.EXCLUSIVE, False, False)],
)
async def test_a_worker_lost_in_a_call_hands_it_on_if_the_effect_allows(
    server: Server, effect: EffectClass, idempotent: bool, again: bool
) -> None:
    first = server.worker(work=lambda: asyncio.sleep(1000))
    id = await server.submit(program(function("a", "work", effect=effect, idempotent=idempotent)))
    await server.until(id, EventKind.CALL_STARTED, "a")
    await asyncio.sleep(1)
    second = server.worker(work=lambda: "done")
    await first.disconnect()
    events = await server.follow(id)
    view = server.view(id)
    if again:
        assert values(view) == {"a": "done"} and len(second.ran) == 1
        keys = {task.idempotency_key for task in (*first.seen, *second.seen)}  # type: ignore[union-attr]
        assert len(keys) == 1
        assert EventKind.CALL_RETRYING in kinds(events, "a")
    else:
        assert errors(view) == {"a": "worker_lost"} and not second.ran


async def test_without_a_worker_a_call_waits_and_then_names_toolset_and_tool(server: Server) -> None:
    view = await server.run(program(function("a", "missing")))
    assert errors(view) == {"a": "no_worker"} and view.seconds == pytest.approx(30.0)
    assert view.error is not None and "'missing'" in view.error.message and "'tools'" in view.error.message


async def test_a_worker_that_comes_in_time_gets_the_waiting_call(server: Server) -> None:
    id = await server.submit(program(function("a", "late")))
    await asyncio.sleep(29)
    server.worker(late=lambda: 7)
    await server.follow(id)
    assert values(server.view(id)) == {"a": 7}


@pytest.mark.parametrize(
    ("value", "type", "error"),
    [
        ("x" * 2000, TextType(), "result_too_large"),
        (3, TextType(), "result_invalid"),
        ({"n": "x"}, JsonType(json_schema={"properties": {"n": {"type": "integer"}}}), "result_invalid"),
        (float("nan"), JsonType(), "result_invalid"),
        ("\ud800", TextType(), "result_invalid"),
    ],
)
async def test_results_that_cannot_be_kept_are_errors_of_their_call(value: object, type: object, error: str) -> None:
    server = await Server(limits=Limits(value_bytes=1000)).start()
    server.worker(bad=lambda: value, good=lambda: 1)
    view = await server.run(
        program(function("a", "bad", type=type, retry=Retry(attempts=3)), function("b", "good"))  # type: ignore[arg-type]
    )
    assert errors(view) == {"a": error} and values(view) == {"b": 1}
    await server.close()
