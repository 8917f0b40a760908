"""Programs of every shape run to their end, each call as soon as what it needs is there."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.errors import InvalidSubmission, NotFound, ProgramEnded
from tenuto.wire import EventKind, GraphExtension, JsonType, ProgramStatus
from tests.orchestrator.runtime.support import (
    TENANT,
    Say,
    Server,
    function,
    kinds,
    llm,
    program,
    prompt_of,
    states,
    values,
    var,
)


async def test_a_chain_passes_values_on(server: Server) -> None:
    view = await server.run(
        program(llm("a", "one ", var("x")), llm("b", "two ", var("a")), inputs={"x": "in"}, outputs=("b",))
    )
    assert view.status is ProgramStatus.SUCCEEDED
    assert values(view) == {"b": "<two <one in>>"}
    assert states(view) == {"a": "ended", "b": "ended"}
    assert view.calls == view.calls_ended == 2


async def test_events_of_a_chain_come_in_order_and_are_numbered_without_gaps(server: Server) -> None:
    events = await server.follow(await server.submit(program(llm("a"), llm("b", var("a")))))
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert [k for k in kinds(events) if k is not EventKind.CALL_TOKENS] == [
        EventKind.PROGRAM_ACCEPTED,
        EventKind.CALL_READY,
        EventKind.CALL_STARTED,
        EventKind.CALL_ENDED,
        EventKind.VARIABLE_WRITTEN,
        EventKind.CALL_READY,
        EventKind.CALL_STARTED,
        EventKind.CALL_ENDED,
        EventKind.VARIABLE_WRITTEN,
        EventKind.PROGRAM_SUCCEEDED,
    ]


async def test_siblings_run_side_by_side_and_a_fan_in_waits_for_the_slowest(server: Server) -> None:
    server.engine.script = lambda request: Say(request.call, seconds={"join": 1.0}.get(request.call, 10.0))
    maps = [llm(f"m{i}") for i in range(20)]
    join = llm("join", *(var(call.id) for call in maps))
    id = await server.submit(program(*maps, join))
    await server.until(id, EventKind.CALL_STARTED, "m19")
    assert len(server.engine.running) == 20
    await server.follow(id)
    assert server.view(id).seconds == pytest.approx(11.0)


async def test_a_call_starts_on_its_own_inputs_not_on_its_generation_of_calls(server: Server) -> None:
    """No superstep: the slow sibling holds up only who needs it."""
    server.engine.script = lambda request: Say(request.call, seconds=100.0 if request.call == "slow" else 1.0)
    id = await server.submit(program(llm("slow"), llm("fast"), llm("next", var("fast")), llm("last", var("next"))))
    events = await server.follow(id)
    ended = {event.call: event.at_s for event in events if event.kind is EventKind.CALL_ENDED}
    assert ended["last"] == pytest.approx(3.0)
    assert ended["slow"] == pytest.approx(100.0)


async def test_function_calls_get_typed_arguments_and_llm_calls_their_results(server: Server) -> None:
    worker = server.worker(add=lambda a, b: {"sum": a + b})
    view = await server.run(
        program(
            function("add", "add", {"a": var("x", "n"), "b": 2}),
            llm("tell", "it is ", var("add", "sum"), " of ", var("add")),
            inputs={"x": {"n": 40}},
        )
    )
    assert worker.ran == [("add", {"a": 40, "b": 2})]
    assert values(view) == {"add": {"sum": 42}, "tell": '<it is 42 of {"sum":42}>'}


async def test_json_output_is_parsed_checked_and_projected(server: Server) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    server.engine.script = lambda request: (
        '{"n": 12345678901234567890123}' if request.call == "a" else prompt_of(request)
    )
    view = await server.run(program(llm("a", type=JsonType(json_schema=schema)), llm("b", var("a", "n"))))
    assert values(view) == {"a": {"n": 12345678901234567890123}, "b": "12345678901234567890123"}
    grammar = server.engine.calls("a")[0].grammar
    assert grammar is not None and '"integer"' in grammar.source


async def test_after_orders_calls_that_share_no_value(server: Server) -> None:
    server.engine.script = lambda request: Say(request.call, seconds=1.0)
    await server.run(program(llm("second", after=("first",)), llm("first")))
    assert [request.call for request in server.engine.requests] == ["first", "second"]


async def test_an_open_program_grows_while_it_runs_and_ends_when_it_is_sealed(server: Server) -> None:
    id = await server.submit(program(llm("a"), outputs=(), open=True))
    await server.until(id, EventKind.CALL_ENDED, "a")
    assert server.view(id).status is ProgramStatus.RUNNING
    await asyncio.sleep(5)
    await server.runtime.extend(id, GraphExtension(calls=(llm("b", "more ", var("a")),), outputs=("b",)), tenant=TENANT)
    await server.until(id, EventKind.CALL_ENDED, "b")
    assert server.view(id).open
    await server.runtime.extend(id, GraphExtension(seal=True, result={"done": 1}), tenant=TENANT)
    view = server.view(id)
    assert (view.status, view.result, view.open) == (ProgramStatus.SUCCEEDED, {"done": 1}, False)
    assert values(view) == {"b": "<more <say something>>"}
    spans = {call.id: call.spans for call in server.runtime.timeline(id, tenant=TENANT).calls}
    assert [(s.cause, s.start_s, s.end_s) for s in spans["b"]] == [("client", 0.0, 5.0)]
    with pytest.raises(ProgramEnded):
        await server.runtime.extend(id, GraphExtension(calls=(llm("c"),)), tenant=TENANT)


async def test_a_sealed_program_still_waits_for_its_calls(server: Server) -> None:
    server.engine.script = lambda request: Say("x", seconds=5.0)
    id = await server.submit(program(llm("a"), open=True))
    await server.runtime.extend(id, GraphExtension(seal=True), tenant=TENANT)
    assert server.view(id).status is ProgramStatus.RUNNING
    with pytest.raises(ProgramEnded, match="sealed"):
        await server.runtime.extend(id, GraphExtension(calls=(llm("b"),)), tenant=TENANT)
    await server.follow(id)
    assert server.view(id).seconds == pytest.approx(5.0)


async def test_programs_without_calls_end_at_once(server: Server) -> None:
    view = await server.run(program(inputs={"x": "value"}, outputs=("x",)))
    assert (view.status, values(view)) == (ProgramStatus.SUCCEEDED, {"x": "value"})


async def test_a_bad_graph_is_refused_with_the_place_and_harms_nothing(server: Server) -> None:
    with pytest.raises(InvalidSubmission) as caught:
        await server.submit(program(llm("a", var("b")), llm("b", var("nowhere"))))
    assert [error.pointer for error in caught.value.errors] == ["/graph/calls/1/messages/0/parts/0/variable"]
    assert server.runtime.list(tenant=TENANT).data == ()


async def test_a_bad_extension_is_refused_and_the_program_goes_on(server: Server) -> None:
    id = await server.submit(program(llm("a"), open=True))
    with pytest.raises(InvalidSubmission) as caught:
        await server.runtime.extend(id, GraphExtension(calls=(llm("b", var("nowhere")),)), tenant=TENANT)
    assert caught.value.errors[0].pointer.startswith("/calls/0/")
    await server.runtime.extend(id, GraphExtension(calls=(llm("b", var("a")),), seal=True), tenant=TENANT)
    await server.follow(id)
    assert states(server.view(id)) == {"a": "ended", "b": "ended"}


async def test_another_tenants_program_does_not_exist(server: Server) -> None:
    id = await server.submit(program(llm("a")))
    for ask in (
        lambda: server.runtime.view(id, tenant="other"),
        lambda: server.runtime.timeline(id, tenant="other"),
        lambda: server.runtime.events(id, tenant="other"),
    ):
        with pytest.raises(NotFound):
            ask()
    with pytest.raises(NotFound):
        await server.runtime.cancel(id, tenant="other")
    assert server.runtime.list(tenant="other").data == ()


async def test_waiting_for_a_variable_ends_with_its_value_or_with_the_wait(server: Server) -> None:
    server.engine.script = lambda request: Say("done", seconds=10.0)
    id = await server.submit(program(llm("a")))
    early = await server.runtime.variable(id, "a", tenant=TENANT, wait_s=4.0)
    assert early.status == "empty" and asyncio.get_running_loop().time() == pytest.approx(4.0)
    late, again = await asyncio.gather(
        server.runtime.variable(id, "a", tenant=TENANT, wait_s=60.0),
        server.runtime.variable(id, "a", tenant=TENANT, wait_s=60.0),
    )
    assert late.value == again.value == "done" and asyncio.get_running_loop().time() == pytest.approx(10.0)
    with pytest.raises(NotFound):
        await server.runtime.variable(id, "nothing", tenant=TENANT, wait_s=1.0)


async def test_the_list_is_paged_filtered_and_in_order(server: Server) -> None:
    ids = [await server.submit(program(llm("a"), workflow=name)) for name in ("x", "y", "x", "x")]
    for id in ids:
        await server.follow(id)
    page = server.runtime.list(tenant=TENANT, limit=3)
    assert [p.id for p in page.data] == ids[:0:-1] and page.has_more
    rest = server.runtime.list(tenant=TENANT, limit=3, after=page.last_id)
    assert [p.id for p in rest.data] == ids[:1] and not rest.has_more
    assert [p.id for p in server.runtime.list(tenant=TENANT, order="asc", workflow="x").data] == [ids[0], *ids[2:]]
    assert server.runtime.list(tenant=TENANT, status=ProgramStatus.FAILED).data == ()
