"""A crash at any moment: accepted programs go on, what was seen is never computed again, no effect happens twice."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import IdempotencyMismatch, InvalidSubmission, JournalUnavailable, NotFound
from orchestrator.limits import Limits
from orchestrator.runtime.events import RESUME_STRIDE
from tenuto.wire import (
    EffectClass,
    Event,
    EventKind,
    GraphExtension,
    JsonType,
    ProgramStatus,
    ProgramSubmission,
    Retry,
)
from tests.orchestrator.runtime.support import (
    TENANT,
    Hang,
    Say,
    ScriptedEngine,
    Server,
    errors,
    function,
    llm,
    program,
    states,
    values,
    var,
)

CrashAndResume = Callable[[Server], Awaitable[Server]]


@pytest.fixture
async def durable(tmp_path: Path) -> Server:
    """A server with a journal; every answer of its engine differs from all others, so nothing can be computed twice
    without being seen."""
    count = iter(range(10**6))
    engine = ScriptedEngine(lambda request: Say(f"{request.call} {next(count)}", seconds=1.0))
    return await Server(engine, journal_path=tmp_path / "journal.db").start()


@pytest.fixture
def crash_and_resume() -> CrashAndResume:
    """Kill a server where it stands, and start another one on its journal, with the same engine."""

    async def crash_and_resume(server: Server) -> Server:
        await server.crash()
        return await Server(
            server.engine, journal_path=server.journal_path, limits=server.limits, telemetry=server.telemetry
        ).start()

    return crash_and_resume


CHAIN = program(llm("a", var("x")), llm("b", var("a")), llm("c", var("b")), inputs={"x": "in"})
FAN = program(*(llm(f"m{i}") for i in range(4)), llm("join", *(var(f"m{i}") for i in range(4))))
EXCLUSIVE = EffectClass.EXCLUSIVE
TOOLS = program(
    llm("a"),
    function("read", "look", {"text": var("a")}),
    function("w1", "add", {"n": 1}, effect=EffectClass.WRITE, effect_key="k", idempotent=True),
    function("w2", "add", {"n": 2}, effect=EffectClass.WRITE, effect_key="k", idempotent=True),
    function("w3", "add", {"n": 3}, effect=EXCLUSIVE, idempotent=True, after=("read",)),
    llm("end", var("w1"), var("w3"), var("read")),
)
FAILING = program(llm("good"), function("bad", "broken"), llm("below", var("bad")), llm("end", var("good")))


class Effects:
    """The world that tools change: counts how often each effect happened, by idempotency key."""

    def __init__(self) -> None:
        self.done: list[int] = []

    def connect(self, server: Server) -> None:
        server.worker(look=self.look, add=self.add, broken=self.broken)

    async def look(self, text: str) -> str:
        await asyncio.sleep(0.5)
        return f"saw {text}"

    async def add(self, n: int) -> int:
        await asyncio.sleep(0.5)
        if n not in self.done:  # what `idempotent` promises
            self.done.append(n)
        return n

    def broken(self) -> None:
        from tests.orchestrator.runtime.support import ToolError

        raise ToolError("tool_error", retryable=False)


def _written(events: list[Event]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for event in events:
        if event.kind is EventKind.VARIABLE_WRITTEN:
            assert event.variable is not None and event.variable not in found, "a variable was written twice"
            found[event.variable] = event.value
    return found


async def _read_some(server: Server, id: str, number: int) -> list[Event]:
    """The first events, as a client saw them before the crash."""
    seen: list[Event] = []
    if number:
        events = server.runtime.events(id, tenant=TENANT)
        async for event in events:
            seen.append(event)
            if len(seen) == number:
                break
        await events.aclose()
    return seen


@pytest.mark.parametrize("crash_at", range(0, 40, 2))
@pytest.mark.parametrize("submission", [CHAIN, FAN, TOOLS, FAILING], ids=["chain", "fan", "tools", "failing"])
async def test_a_crash_at_any_event_is_not_seen_in_the_result(
    durable: Server, crash_and_resume: CrashAndResume, submission: ProgramSubmission, crash_at: int
) -> None:
    effects = Effects()
    effects.connect(durable)
    id = await durable.submit(submission)
    seen = await _read_some(durable, id, crash_at)
    before = {request.call for request in durable.engine.requests}
    resumed = await crash_and_resume(durable)
    effects.connect(resumed)
    requests = len(resumed.engine.requests)
    last = seen[-1].seq if seen else 0
    await resumed.runtime.recall(id, tenant=TENANT)  # its end may have been durable though nobody had read it yet
    rest = await resumed.follow(id, after_seq=last)
    # One reader over both servers: everything once, in order, and true.
    told = _written([*seen, *rest])
    view = resumed.view(id)
    assert told == {"x": "in", **values(view)} if submission is CHAIN else told == values(view)
    assert [event.seq for event in [*seen, *rest]] == sorted({event.seq for event in [*seen, *rest]})
    recomputed = {request.call for request in resumed.engine.requests[requests:]}
    assert not recomputed & _written(seen).keys()
    assert before | recomputed >= set(states(view)) & before
    expected = ProgramStatus.FAILED if submission is FAILING else ProgramStatus.SUCCEEDED
    assert view.status is expected
    assert sorted(effects.done) == ([1, 2, 3] if submission is TOOLS else [])
    await resumed.close()


async def test_programs_survive_many_crashes(durable: Server, crash_and_resume: CrashAndResume) -> None:
    calls = [llm("c0"), *(llm(f"c{n}", var(f"c{n - 1}")) for n in range(1, 12))]
    id = await durable.submit(program(*calls))
    server, values_seen = durable, dict[str, Any]()
    for _ in range(20):
        await asyncio.sleep(1.3)
        for name, view in server.view(id).outputs.items():
            if view.status == "written":
                assert values_seen.setdefault(name, view.value) == view.value
        if server.view(id).status is not ProgramStatus.RUNNING:
            break
        server = await crash_and_resume(server)
    assert server.view(id).status is ProgramStatus.SUCCEEDED and len(values_seen) == 12
    await server.close()


async def test_event_numbers_never_go_back_over_a_restart(durable: Server, crash_and_resume: CrashAndResume) -> None:
    id = await durable.submit(CHAIN)
    await durable.until(id, EventKind.CALL_TOKENS, "b")
    first = durable.program(id).log.last
    resumed = await crash_and_resume(durable)
    events = await resumed.follow(id, after_seq=first)
    assert all(event.seq > RESUME_STRIDE for event in events)
    written = [event.variable for event in events if event.kind is EventKind.VARIABLE_WRITTEN]
    assert written == ["b", "c"]
    await resumed.close()


async def test_event_numbers_grow_over_restarts_even_if_nothing_was_recorded_between_them(
    durable: Server, crash_and_resume: CrashAndResume
) -> None:
    durable.engine.script = lambda _: Say("one two three four", seconds=4.0)
    id = await durable.submit(program(llm("a")))
    server, seen = durable, list[Event]()
    for _ in range(4):
        async with aclosing(server.runtime.events(id, tenant=TENANT, after_seq=seen[-1].seq if seen else 0)) as events:
            async for event in events:
                seen.append(event)
                if event.kind is EventKind.CALL_TOKENS:
                    break
        server = await crash_and_resume(server)
    seen += await server.follow(id, after_seq=seen[-1].seq)
    assert [event.seq for event in seen] == sorted({event.seq for event in seen})
    assert [event.kind for event in seen].count(EventKind.CALL_STARTED) == 5
    await server.close()


async def test_text_of_a_run_that_a_crash_cut_short_can_be_told_from_that_of_the_next(
    durable: Server, crash_and_resume: CrashAndResume
) -> None:
    durable.engine.script = lambda _: Say("one two three four", seconds=4.0)
    id = await durable.submit(program(llm("a")))
    server, attempts = durable, list[int]()
    for _ in range(3):
        await server.until(id, EventKind.CALL_TOKENS, "a")
        attempts.append(server.program(id).log.read(0)[-1].attempt)
        server = await crash_and_resume(server)
    events = await server.follow(id)
    attempts.append(events[-3].attempt)
    assert attempts == sorted(set(attempts))
    assert len({request.id for request in server.engine.requests}) == 4
    assert server.runtime.timeline(id, tenant=TENANT).calls[0].attempts == 1
    await server.close()


async def test_nothing_is_shown_before_it_is_durable(tmp_path: Path) -> None:
    """The journal is slow; the next call starts meanwhile, and the world outside waits."""
    server = await Server(journal_path=tmp_path / "journal.db").start()
    insert = server.journal._insert  # type: ignore[attr-defined]

    async def slow(batch: object) -> None:
        await asyncio.sleep(10.0)
        await insert(batch)

    server.journal._insert = slow  # type: ignore[attr-defined]
    submitting = asyncio.create_task(server.submit(program(llm("a"), llm("b", var("a")))))
    await asyncio.sleep(5.0)
    assert [request.call for request in server.engine.requests] == ["a", "b"]
    assert not submitting.done()
    id = await submitting
    view = await server.runtime.variable(id, "a", tenant=TENANT)
    assert view.status == "empty" and server.view(id).status is ProgramStatus.RUNNING
    events = await server.follow(id)
    assert asyncio.get_running_loop().time() == pytest.approx(20.0)
    assert server.view(id).status is ProgramStatus.SUCCEEDED and events[-1].at_s == pytest.approx(0.0)
    await server.close()


async def test_an_effect_starts_only_after_what_it_depends_on_and_its_intent_are_durable(tmp_path: Path) -> None:
    server = await Server(journal_path=tmp_path / "journal.db").start()
    insert = server.journal._insert  # type: ignore[attr-defined]

    async def slow(batch: object) -> None:
        await asyncio.sleep(10.0)
        await insert(batch)

    server.journal._insert = slow  # type: ignore[attr-defined]
    worker = server.worker(write=lambda text: 1, look=lambda text: 1)
    calls = (
        llm("a"),
        function("w", "write", {"text": var("a")}, effect=EXCLUSIVE),
        function("r", "look", {"text": var("a")}),
    )
    running = asyncio.create_task(server.run(program(*calls)))
    await asyncio.sleep(5.0)
    assert [tool for tool, _ in worker.ran] == ["look"]
    await asyncio.sleep(10.0)  # acceptance is durable, the intent is on its way
    assert [tool for tool, _ in worker.ran] == ["look"]
    await running
    assert [tool for tool, _ in worker.ran] == ["look", "write"]
    await server.close()


@pytest.mark.parametrize(("idempotent", "runs"), [(False, 1), (True, 2)])
async def test_an_effect_in_flight_runs_again_only_if_it_is_idempotent(
    durable: Server, crash_and_resume: CrashAndResume, idempotent: bool, runs: int
) -> None:
    ran: list[str] = []

    async def write() -> str:
        ran.append("write")
        await asyncio.sleep(10.0)
        return "done"

    durable.worker(write=write)
    calls = (
        function("w", "write", effect=EXCLUSIVE, idempotent=idempotent, retry=Retry(attempts=5)),
        function("next", "write", effect=EXCLUSIVE, idempotent=True),
    )
    id = await durable.submit(program(*calls))
    await asyncio.sleep(5.0)
    resumed = await crash_and_resume(durable)
    resumed.worker(write=write)
    await resumed.follow(id)
    assert len(ran) == runs + 1
    view = resumed.view(id)
    assert errors(view) == ({} if idempotent else {"w": "effect_unknown"})
    assert states(view)["next"] == "ended"
    await resumed.close()


async def test_reads_and_generations_in_flight_run_again(durable: Server, crash_and_resume: CrashAndResume) -> None:
    ran: list[str] = []

    async def look() -> str:
        ran.append("look")
        await asyncio.sleep(10.0)
        return "done"

    durable.worker(look=look)
    id = await durable.submit(program(function("r", "look"), llm("a", timeout_s=60.0)))
    await asyncio.sleep(0.5)
    resumed = await crash_and_resume(durable)
    resumed.worker(look=look)
    await resumed.follow(id)
    assert len(ran) == 2 and len(resumed.engine.calls("a")) == 2
    assert resumed.view(id).status is ProgramStatus.SUCCEEDED
    await resumed.close()


async def test_an_open_program_can_be_extended_after_a_restart(
    durable: Server, crash_and_resume: CrashAndResume
) -> None:
    id = await durable.submit(program(llm("a"), open=True))
    await durable.runtime.extend(id, GraphExtension(calls=(llm("b", var("a")),), outputs=("b",)), tenant=TENANT)
    await durable.until(id, EventKind.VARIABLE_WRITTEN, "b")
    before = values(durable.view(id))
    resumed = await crash_and_resume(durable)
    assert values(resumed.view(id)) == before
    await resumed.runtime.extend(
        id, GraphExtension(calls=(llm("c", var("b")),), outputs=("c",), seal=True, result=[1]), tenant=TENANT
    )
    await resumed.follow(id)
    view = resumed.view(id)
    assert view.status is ProgramStatus.SUCCEEDED and view.result == [1] and values(view) == before | values(view)
    await resumed.close()


async def test_a_sealed_result_and_big_integers_survive(durable: Server, crash_and_resume: CrashAndResume) -> None:
    big = 2**100
    durable.worker(big=lambda: {"n": big})
    id = await durable.submit(program(function("a", "big", type=JsonType()), open=True, inputs={"x": [big]}))
    await durable.until(id, EventKind.VARIABLE_WRITTEN, "a")
    await durable.runtime.extend(id, GraphExtension(seal=True, result={"n": big}), tenant=TENANT)
    resumed = await crash_and_resume(durable)
    await resumed.runtime.recall(id, tenant=TENANT)
    view = resumed.view(id)
    assert view.result == {"n": big} and values(view) == {"a": {"n": big}}
    assert resumed.program(id).values["x"] == [big]
    await resumed.close()


async def test_an_ended_program_is_read_from_the_journal_as_it_was(
    durable: Server, crash_and_resume: CrashAndResume
) -> None:
    effects = Effects()
    effects.connect(durable)
    ids = [await durable.submit(submission) for submission in (CHAIN, TOOLS, FAILING)]
    cancelled = await durable.submit(program(llm("a"), llm("b", var("a"))))
    await durable.until(cancelled, EventKind.VARIABLE_WRITTEN, "a")
    await durable.runtime.cancel(cancelled, tenant=TENANT)
    before = {}
    for id in (*ids, cancelled):
        events = [event for event in await durable.follow(id) if event.kind in _KEPT]
        before[id] = (durable.view(id), durable.runtime.timeline(id, tenant=TENANT), events)
    resumed = await crash_and_resume(durable)
    for id, (view, timeline, events) in before.items():
        with pytest.raises(NotFound):
            resumed.view(id)
        await resumed.runtime.recall(id, tenant=TENANT)
        assert resumed.view(id) == view
        assert resumed.runtime.timeline(id, tenant=TENANT) == timeline
        assert [event for event in await resumed.follow(id) if event.kind in _KEPT] == events
        assert (await resumed.runtime.cancel(id, tenant=TENANT)).status is view.status
    with pytest.raises(NotFound):
        await resumed.runtime.recall(ids[0], tenant="other")
    assert resumed.runtime.list(tenant=TENANT).data == ()
    await resumed.close()


_KEPT = frozenset(EventKind) - {EventKind.CALL_STARTED, EventKind.CALL_TOKENS, EventKind.CALL_RETRYING}


async def test_idempotency_keys_hold_over_a_restart(durable: Server, crash_and_resume: CrashAndResume) -> None:
    id = await durable.submit(CHAIN, idempotency_key="key")
    await durable.follow(id)
    resumed = await crash_and_resume(durable)
    summary, created = await resumed.runtime.submit(CHAIN, tenant=TENANT, idempotency_key="key")
    assert (summary.id, summary.status, created) == (id, ProgramStatus.SUCCEEDED, False)
    with pytest.raises(IdempotencyMismatch):
        await resumed.submit(FAN, idempotency_key="key")
    other, created = await resumed.runtime.submit(CHAIN, tenant="other", idempotency_key="key")
    assert created and other.id != id
    await resumed.close()


async def test_a_program_keeps_its_trace_and_its_age(durable: Server, crash_and_resume: CrashAndResume) -> None:
    durable.engine.script = lambda _: Hang()
    await asyncio.sleep(100.0)
    id = await durable.submit(program(llm("a")))
    before = durable.view(id)
    await asyncio.sleep(50.0)
    resumed = await crash_and_resume(durable)
    after = resumed.view(id)
    assert (after.trace_id, after.accepted_at) == (before.trace_id, before.accepted_at)
    assert after.seconds == pytest.approx(50.0)
    await resumed.close()


async def test_a_graceful_close_loses_nothing_either(durable: Server) -> None:
    id = await durable.submit(CHAIN)
    await durable.until(id, EventKind.VARIABLE_WRITTEN, "a")
    value = (await durable.runtime.variable(id, "a", tenant=TENANT)).value
    await durable.close()
    resumed = await Server(durable.engine, journal_path=durable.journal_path).start()
    assert (await resumed.runtime.variable(id, "a", tenant=TENANT)).value == value
    await resumed.follow(id)
    assert resumed.view(id).status is ProgramStatus.SUCCEEDED
    await resumed.close()


async def test_a_disk_that_refuses_stops_the_server_with_a_reason_and_loses_nothing_that_was_seen(
    durable: Server, crash_and_resume: CrashAndResume
) -> None:
    id = await durable.submit(CHAIN)
    await durable.until(id, EventKind.VARIABLE_WRITTEN, "a")
    await durable.journal._query("PRAGMA max_page_count = 1")  # type: ignore[attr-defined]
    with pytest.raises(JournalUnavailable, match="full"):
        for n in range(100):
            await durable.submit(program(llm("a", "x" * 10_000)), idempotency_key=str(n))
    for wait in (durable.follow(id), durable.runtime.variable(id, "c", tenant=TENANT, wait_s=9.0)):
        with pytest.raises(JournalUnavailable, match="full"):
            await wait
    await asyncio.sleep(100.0)
    assert not durable.engine.running
    seen = (await durable.runtime.variable(id, "a", tenant=TENANT)).value
    resumed = await crash_and_resume(durable)
    await resumed.follow(id)
    assert values(resumed.view(id))["a"] == seen
    await resumed.close()


async def test_ended_programs_leave_memory_but_not_the_journal(tmp_path: Path) -> None:
    server = await Server(journal_path=tmp_path / "journal.db", limits=Limits(ended_programs=3)).start()
    ids = [(await server.run(program(llm("a")))).id for _ in range(5)]
    assert [p.id for p in server.runtime.list(tenant=TENANT, order="asc").data] == ids[2:]
    with pytest.raises(NotFound):
        server.view(ids[0])
    await server.runtime.recall(ids[0], tenant=TENANT)
    assert server.view(ids[0]).status is ProgramStatus.SUCCEEDED
    assert (await server.runtime.variable(ids[1], "a", tenant=TENANT)).value == "<say something>"
    await server.close()


async def test_an_abandoned_program_keeps_its_reason_and_an_open_one_its_patience(
    durable: Server, crash_and_resume: CrashAndResume
) -> None:
    durable.limits = Limits(open_idle_s=100.0)
    durable = await crash_and_resume(durable)
    id = await durable.submit(program(open=True))
    other = await durable.submit(program(open=True))
    await asyncio.sleep(50.0)
    await durable.runtime.extend(other, GraphExtension(inputs={}), tenant=TENANT)
    await asyncio.sleep(51.0)
    assert durable.view(id).status is ProgramStatus.CANCELLED
    resumed = await crash_and_resume(durable)
    await resumed.runtime.recall(id, tenant=TENANT)
    error = resumed.view(id).error
    assert error is not None and error.type == "abandoned"
    assert resumed.view(other).status is ProgramStatus.RUNNING
    await asyncio.sleep(101.0)
    assert resumed.view(other).status is ProgramStatus.CANCELLED
    await resumed.close()


async def test_smaller_limits_after_a_restart_hold_for_what_comes_only(
    durable: Server, crash_and_resume: CrashAndResume
) -> None:
    calls = [llm("c0"), *(llm(f"c{n}", var(f"c{n - 1}")) for n in range(1, 6))]
    id = await durable.submit(program(*calls, open=True))
    await durable.until(id, EventKind.VARIABLE_WRITTEN, "c1")
    durable.limits = Limits(calls_per_program=3)
    resumed = await crash_and_resume(durable)
    with pytest.raises(InvalidSubmission):
        await resumed.runtime.extend(id, GraphExtension(calls=(llm("more"),)), tenant=TENANT)
    await resumed.runtime.extend(id, GraphExtension(seal=True), tenant=TENANT)
    await resumed.follow(id)
    assert resumed.view(id).status is ProgramStatus.SUCCEEDED
    await resumed.close()


async def test_a_program_that_cannot_be_read_keeps_no_other_from_going_on(
    durable: Server, crash_and_resume: CrashAndResume, caplog: pytest.LogCaptureFixture
) -> None:
    broken = await durable.submit(program(llm("a"), llm("b", var("a"))))
    other = await durable.submit(CHAIN)
    sql = "UPDATE records SET payload = CAST('{}' AS BLOB) WHERE kind = 'accepted' AND program = ?"
    await durable.journal._query(sql, (broken,))  # type: ignore[attr-defined]
    resumed = await crash_and_resume(durable)
    await resumed.follow(other)
    assert resumed.view(other).status is ProgramStatus.SUCCEEDED
    assert broken in caplog.text
    await resumed.close()


async def test_a_large_value_is_shown_by_reference_after_a_restart_too(
    durable: Server, crash_and_resume: CrashAndResume
) -> None:
    durable.engine.script = lambda request: Say("x" * 300_000 if request.call == "a" else "short")
    id = await durable.submit(program(llm("a"), llm("b", var("a"))))
    before = {event.variable: event.large for event in await durable.follow(id) if event.large is not None}
    resumed = await crash_and_resume(durable)
    await resumed.runtime.recall(id, tenant=TENANT)
    after = {event.variable: event.large for event in await resumed.follow(id) if event.large is not None}
    assert before.keys() == {"a"} and before["a"] is not None and before["a"].bytes == 300_002
    assert after == before
    outputs = resumed.runtime.view(id, tenant=TENANT).outputs
    assert outputs["a"].large == before["a"] and outputs["a"].value is None and outputs["b"].value == "short"
    assert (await resumed.runtime.variable(id, "a", tenant=TENANT)).value == "x" * 300_000


async def test_a_record_that_cannot_be_read_keeps_only_its_own_program_from_going_on(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    server = await Server(ScriptedEngine(lambda request: Hang()), path).start()
    bad, odd, good = [await server.submit(program(llm("a"))) for _ in range(3)]
    await asyncio.sleep(1)
    await server.crash()
    rows = [(bad, "future", None, b"[]"), (odd, "resumed", None, b"[1]")]
    with sqlite3.connect(path) as journal:
        journal.executemany("INSERT INTO records(program, kind, name, facts, payload) VALUES(?, ?, ?, ?, x'')", rows)
    journal.close()
    again = await Server(ScriptedEngine(lambda request: "x"), path).start()
    await again.follow(good)
    assert again.view(good).status is ProgramStatus.SUCCEEDED
    for id, kind in ((bad, "future"), (odd, "resumed")):
        with pytest.raises(JournalUnavailable, match=f"a record of kind '{kind}' of program '{id}' cannot be read"):
            await again.runtime.recall(id, tenant=TENANT)
    await again.close()
