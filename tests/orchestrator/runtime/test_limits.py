"""Every bound has an error that names it, and reaching one harms nothing else."""

from __future__ import annotations

import asyncio
from dataclasses import fields

import pytest

from orchestrator.errors import Busy, Conflict, IdempotencyMismatch, InvalidSubmission, TooLarge
from orchestrator.limits import Limits
from tenuto.wire import Constant, FunctionCall, GraphExtension, ProgramStatus
from tests.orchestrator.runtime.support import TENANT, Hang, Say, ScriptedEngine, Server, llm, program, values, var


async def _server(**limits: float) -> Server:
    return await Server(limits=Limits(**limits)).start()  # type: ignore[arg-type]


@pytest.mark.parametrize("field", [field.name for field in fields(Limits)])
def test_a_bound_that_admits_nothing_is_refused_by_name(field: str) -> None:
    with pytest.raises(ValueError, match=f"limits.{field}"):
        Limits(**{field: 0})  # type: ignore[arg-type]


async def test_a_ten_megabyte_prompt_is_refused_with_its_place_and_the_limit() -> None:
    server = await _server()
    with pytest.raises(InvalidSubmission) as caught:
        await server.submit(program(llm("small"), llm("big", "x" * 10 * 2**20)))
    (error,) = caught.value.errors
    assert error.pointer.startswith("/graph/calls/1") and str(Limits().prompt_bytes) in error.message.replace(",", "")
    assert (await server.run(program(llm("a")))).status is ProgramStatus.SUCCEEDED
    await server.close()


async def test_a_submission_is_bounded_as_a_whole() -> None:
    server = await _server(submission_bytes=10_000)
    with pytest.raises(TooLarge, match="submission_bytes"):
        await server.submit(program(llm("a", "x" * 10_000)))
    id = await server.submit(program(open=True))
    with pytest.raises(TooLarge, match="submission_bytes"):
        await server.runtime.extend(id, GraphExtension(calls=(llm("a", "x" * 10_000),)), tenant=TENANT)
    await server.close()


async def test_an_input_is_bounded_like_any_value() -> None:
    server = await _server(value_bytes=1000)
    with pytest.raises(TooLarge) as caught:
        await server.submit(program(llm("a", var("y")), inputs={"x": "small", "y": "é" * 600}))
    assert [error.pointer for error in caught.value.errors] == ["/graph/inputs/y/value"]
    assert (await server.run(program(llm("a", var("y")), inputs={"y": "x" * 900}))).status is ProgramStatus.SUCCEEDED
    await server.close()


async def test_a_program_has_a_bounded_number_of_calls_over_all_extensions() -> None:
    server = await _server(calls_per_program=3)
    with pytest.raises(InvalidSubmission):
        await server.submit(program(*(llm(f"c{n}") for n in range(4))))
    id = await server.submit(program(llm("a"), llm("b"), open=True))
    with pytest.raises(InvalidSubmission):
        await server.runtime.extend(id, GraphExtension(calls=(llm("c"), llm("d"))), tenant=TENANT)
    await server.runtime.extend(id, GraphExtension(calls=(llm("c"),), seal=True), tenant=TENANT)
    await server.follow(id)
    await server.close()


async def test_more_programs_than_the_server_holds_are_told_to_come_back() -> None:
    server = await _server(live_programs=2)
    server.engine.script = lambda _: Hang()
    ids = [await server.submit(program(llm("a"))) for _ in range(2)]
    with pytest.raises(Busy, match="live_programs") as caught:
        await server.submit(program(llm("a")))
    assert caught.value.retryable and caught.value.retry_after_s
    await server.runtime.cancel(ids[0], tenant=TENANT)
    await server.submit(program(llm("a")))
    await server.close()


async def test_more_calls_than_the_server_holds_are_told_to_come_back() -> None:
    server = await _server(live_calls=5)
    server.engine.script = lambda _: Hang()
    first = await server.submit(program(*(llm(f"c{n}") for n in range(4)), open=True))
    with pytest.raises(Busy, match="live_calls"):
        await server.submit(program(llm("a"), llm("b")))
    with pytest.raises(Busy, match="live_calls"):
        await server.runtime.extend(first, GraphExtension(calls=(llm("a"), llm("b"))), tenant=TENANT)
    await server.runtime.extend(first, GraphExtension(calls=(llm("a"),)), tenant=TENANT)
    await server.runtime.cancel(first, tenant=TENANT)
    await server.submit(program(*(llm(f"c{n}") for n in range(5))))
    await server.close()


async def test_refused_programs_take_no_room() -> None:
    server = await _server(live_calls=5, live_programs=1)
    for _ in range(10):
        with pytest.raises(InvalidSubmission):
            await server.submit(program(llm("a", var("nowhere")), llm("b")))
    assert (await server.run(program(*(llm(f"c{n}") for n in range(5))))).status is ProgramStatus.SUCCEEDED
    await server.close()


async def test_ended_programs_leave_memory_in_the_order_in_which_they_ended() -> None:
    server = await _server(ended_programs=2)
    ids = [(await server.run(program(llm("a")))).id for _ in range(4)]
    assert [p.id for p in server.runtime.list(tenant=TENANT, order="asc").data] == ids[2:]
    # a page may be asked for after a program that has gone
    assert [p.id for p in server.runtime.list(tenant=TENANT, order="asc", after=ids[0]).data] == ids[2:]
    await server.close()


async def test_ended_programs_are_bounded_by_the_bytes_of_their_values() -> None:
    server = await _server(ended_bytes=5000)
    server.engine.script = lambda _: "x" * 2000
    for _ in range(5):
        await server.run(program(llm("a")))
    assert len(server.runtime.list(tenant=TENANT).data) == 1
    await server.close()


async def test_a_model_that_nobody_serves_is_refused_with_the_names_there_are() -> None:
    server = await _server()
    with pytest.raises(InvalidSubmission) as caught:
        await server.submit(program(llm("a"), llm("b", model="gpt")))
    (error,) = caught.value.errors
    assert error.pointer == "/graph/calls/1/model" and "'scripted'" in error.fix
    await server.close()


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
async def test_numbers_that_json_lacks_are_refused(number: float) -> None:
    server = await _server()
    with pytest.raises(InvalidSubmission) as caught:
        await server.submit(program(inputs={"fine": "NaN", "x": {"deep": [number]}}))
    assert caught.value.errors[0].pointer.startswith("/graph/inputs/x")
    call = FunctionCall(id="a", tool="t", arguments={"n": Constant(value=number)})
    with pytest.raises(InvalidSubmission, match="no JSON number"):
        await server.submit(program(call))
    assert (await server.run(program(llm("a", "NaN and Infinity")))).status is ProgramStatus.SUCCEEDED
    await server.close()


async def test_an_open_program_that_nobody_uses_any_more_is_ended() -> None:
    server = await _server(open_idle_s=100.0)
    server.engine.script = lambda _: Say("x", seconds=500.0)
    id = await server.submit(program(llm("a"), open=True))
    await asyncio.sleep(599)  # it runs for 500 s: only then the time begins
    assert server.view(id).status is ProgramStatus.RUNNING
    await server.runtime.extend(id, GraphExtension(calls=(llm("b"),)), tenant=TENANT)
    await asyncio.sleep(599)
    assert server.view(id).status is ProgramStatus.RUNNING
    await asyncio.sleep(2)
    view = server.view(id)
    assert view.status is ProgramStatus.CANCELLED and view.error is not None and view.error.type == "abandoned"
    await server.close()


# -- idempotency --------------------------------------------------------------------------------


async def test_a_repeated_submission_is_answered_with_the_first_ones_program(server: Server) -> None:
    submission = program(llm("a"))
    first, created = await server.runtime.submit(submission, tenant=TENANT, idempotency_key="k")
    again, created_again = await server.runtime.submit(submission, tenant=TENANT, idempotency_key="k")
    assert (created, created_again) == (True, False) and first.id == again.id
    await server.follow(first.id)
    assert len(server.engine.requests) == 1
    third, _ = await server.runtime.submit(submission, tenant=TENANT, idempotency_key="k")
    assert third.id == first.id and third.status is ProgramStatus.SUCCEEDED


async def test_a_key_with_another_body_is_refused_and_keys_are_the_tenants_own(server: Server) -> None:
    await server.submit(program(llm("a")), idempotency_key="k")
    with pytest.raises(IdempotencyMismatch):
        await server.submit(program(llm("b")), idempotency_key="k")
    _, created = await server.runtime.submit(program(llm("b")), tenant="other", idempotency_key="k")
    assert created


async def test_a_key_whose_first_submission_is_on_its_way_conflicts(tmp_path: object) -> None:
    server = await Server(journal_path=tmp_path / "journal.db").start()  # type: ignore[operator]
    first = asyncio.create_task(server.submit(program(llm("a")), idempotency_key="k"))
    await asyncio.sleep(0)
    with pytest.raises(Conflict) as caught:
        await server.submit(program(llm("a")), idempotency_key="k")
    assert caught.value.retryable
    with pytest.raises(IdempotencyMismatch):
        await server.submit(program(llm("b")), idempotency_key="k")
    id = await first
    assert await server.submit(program(llm("a")), idempotency_key="k") == id
    await server.close()


async def test_a_key_of_a_refused_submission_is_free_again(server: Server) -> None:
    with pytest.raises(InvalidSubmission):
        await server.submit(program(llm("a", var("nowhere"))), idempotency_key="k")
    await server.submit(program(llm("a")), idempotency_key="k")


# -- engines by model ---------------------------------------------------------------------------


async def test_calls_go_to_the_engine_of_their_model_or_of_their_toolsets_worker() -> None:
    async def hosted(task: object) -> str:
        return "from the worker, in several words"

    server = await Server(more_engines=(ScriptedEngine(lambda _: "from the other", name="other"),)).start()
    worker = server.worker(models={"mine": hosted})
    view = await server.run(program(llm("a", "x"), llm("b", model="other"), llm("c", model="mine")))
    assert values(view) == {"a": "<x>", "b": "from the other", "c": "from the worker, in several words"}
    assert worker.seen[0].kind == "model" and worker.seen[0].attempt == 1
    with pytest.raises(InvalidSubmission):  # another toolset's programs do not reach it
        await server.submit(program(llm("c", model="mine"), toolset="elsewhere"))
    await server.close()
