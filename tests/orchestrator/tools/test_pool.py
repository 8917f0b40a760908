"""Tasks go to workers with room, results come back to the call that waits, and liars change nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from functools import partial
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from orchestrator.errors import Busy, Conflict, InvalidSubmission, WorkerUnknown
from orchestrator.limits import Limits
from orchestrator.tools import CallFailure, ToolRun, WorkerPool
from orchestrator.tools.worker import TaskStream
from orchestrator.virtual_time import VirtualTimeLoop
from tenuto.wire import (
    CancelTask,
    ErrorValue,
    FunctionTask,
    HostedModel,
    Reference,
    TaskMessage,
    TaskResult,
    ToolSpec,
    WorkerRegistration,
)


def make_pool(**limits: float) -> WorkerPool:
    return WorkerPool(limits=Limits(**limits), rng=Random(0))  # type: ignore[arg-type]


class Client:
    """A worker under the test's hand: it answers when it is told to."""

    def __init__(
        self,
        pool: WorkerPool,
        *tools: str,
        concurrency: int = 8,
        caps: Mapping[str, int] | None = None,
        tenant: str = "default",
        toolset: str = "set",
    ) -> None:
        specs = tuple(ToolSpec(name=name, concurrency=(caps or {}).get(name)) for name in tools)
        registration = WorkerRegistration(toolset=toolset, tools=specs, concurrency=concurrency)
        self.pool, self.tenant = pool, tenant
        self.id = pool.register(registration, tenant).id
        self.stream: TaskStream = pool.tasks(self.id, tenant=tenant)

    def take(self) -> list[TaskMessage]:
        """The messages that have come."""
        found = [*self.stream._messages]
        self.stream._messages.clear()
        return found

    def answer(self, task: str, value: Any = None, **fields: Any) -> tuple[Any, ...]:
        return self.pool.results(self.id, [TaskResult(task=task, value=value, **fields)], tenant=self.tenant)


def ask(pool: WorkerPool, tool: str = "f", **options: Any) -> asyncio.Task[Any]:
    """Ask for one run of a tool; returns when it waits or runs."""
    fields: dict[str, Any] = {"program": "p", "call": "c", "tenant": "default", "toolset": "set", "arguments": {}}
    run = ToolRun(tool=tool, attempt=1, **(fields | options))
    return asyncio.create_task(pool.run(run, lambda: None))


async def test_a_task_carries_what_its_tool_needs_and_its_result_comes_back() -> None:
    pool = make_pool()
    worker = Client(pool, "f")
    task = ask(pool, arguments={"x": 1}, timeout_s=5.0, traceparent="00-ab-cd-01")
    await asyncio.sleep(0)
    (message,) = worker.take()
    assert isinstance(message, FunctionTask)
    assert FunctionTask.model_validate_json(message.model_dump_json()) == message
    assert (message.program, message.call, message.tool, message.arguments) == ("p", "c", "f", {"x": 1})
    assert message.idempotency_key.startswith("p/c/") and (message.attempt, message.timeout_s) == (1, 5.0)
    assert worker.answer(message.task, {"y": 2}) == ()
    assert await task == {"y": 2}


async def test_attempts_of_one_call_have_equal_keys_and_different_tasks() -> None:
    pool = make_pool()
    worker = Client(pool, "f")
    for _ in range(2):
        ask(pool)
    await asyncio.sleep(0)
    first, second = worker.take()
    assert first.task != second.task and first.idempotency_key == second.idempotency_key  # type: ignore[union-attr]


async def test_tasks_go_to_the_worker_with_most_room() -> None:
    pool = make_pool()
    small, large = Client(pool, "f", concurrency=2), Client(pool, "f", concurrency=6)
    tasks = [ask(pool) for _ in range(10)]
    await asyncio.sleep(0)
    assert (len(small.take()), len(large.take())) == (2, 6)
    assert sum(task.done() for task in tasks) == 0


async def test_what_finds_no_room_waits_in_order_for_the_first_free_place() -> None:
    pool = make_pool()
    worker = Client(pool, "f", concurrency=1)
    tasks = [ask(pool, call=f"c{n}") for n in range(3)]
    await asyncio.sleep(0)
    for n, task in enumerate(tasks):
        (message,) = worker.take()
        assert message.call == f"c{n}"  # type: ignore[union-attr]
        worker.answer(message.task, n)
        assert await task == n


async def test_a_capped_tool_holds_back_no_other_tool() -> None:
    pool = make_pool()
    worker = Client(pool, "f", "g", caps={"f": 1})
    for n in range(3):
        ask(pool, "f", call=f"f{n}")
    ask(pool, "g", call="g")
    await asyncio.sleep(0)
    messages = worker.take()
    assert [message.call for message in messages] == ["f0", "g"]  # type: ignore[union-attr]
    worker.answer(messages[0].task)
    assert [message.call for message in worker.take()] == ["f1"]  # type: ignore[union-attr]


async def test_a_worker_is_given_only_tools_that_it_has_and_only_its_tenants() -> None:
    pool = make_pool()
    f, g = Client(pool, "f"), Client(pool, "g")
    other_set, other_tenant = Client(pool, "f", toolset="other"), Client(pool, "f", tenant="other")
    ask(pool, "g")
    ask(pool, "f", tenant="other")
    await asyncio.sleep(0)
    assert [len(client.take()) for client in (f, g, other_set, other_tenant)] == [0, 1, 0, 1]


async def test_an_error_keeps_its_name_and_whether_it_may_be_retried() -> None:
    pool = make_pool()
    worker = Client(pool, "f")
    task = ask(pool)
    await asyncio.sleep(0)
    worker.answer(worker.take()[0].task, error=ErrorValue(type="tool_error", message="no"), retryable=True)
    with pytest.raises(CallFailure) as caught:
        await task
    assert (caught.value.type, caught.value.message, caught.value.retryable) == ("tool_error", "no", True)


async def test_results_of_tasks_that_are_not_the_workers_own_change_nothing() -> None:
    pool = make_pool()
    honest, liar = Client(pool, "f"), Client(pool, "g")
    task = ask(pool)
    await asyncio.sleep(0)
    (message,) = honest.take()
    for name in (message.task, "task_000000000099", ""):
        (ignored,) = liar.answer(name, "lie")
        assert ignored.task == name and ignored.reason
    assert honest.answer(message.task, "truth") == ()
    (ignored,) = honest.answer(message.task, "again")
    assert ignored.task == message.task
    assert await task == "truth"


async def test_a_batch_with_unknown_results_still_counts_for_the_others() -> None:
    pool = make_pool()
    worker = Client(pool, "f")
    task = ask(pool)
    await asyncio.sleep(0)
    results = [TaskResult(task="nothing"), TaskResult(task=worker.take()[0].task, value=1), TaskResult(task="")]
    assert [ignored.task for ignored in pool.results(worker.id, results)] == ["nothing", ""]
    assert await task == 1


async def test_another_tenant_can_neither_read_nor_answer_nor_remove_a_worker() -> None:
    pool = make_pool()
    worker = Client(pool, "f")
    for attempt in (
        lambda: pool.results(worker.id, [], tenant="other"),
        lambda: pool.tasks(worker.id, tenant="other"),
        lambda: pool.remove(worker.id, tenant="other"),
    ):
        with pytest.raises(WorkerUnknown):
            attempt()


async def test_a_timeout_starts_with_the_worker_and_takes_the_task_back() -> None:
    pool = make_pool()
    worker = Client(pool, "f", concurrency=1)
    first, second = ask(pool, call="1", timeout_s=10.0), ask(pool, call="2", timeout_s=10.0)
    with pytest.raises(CallFailure, match="10 s") as caught:
        await first
    assert caught.value.type == "timeout" and caught.value.retryable
    assert asyncio.get_running_loop().time() == pytest.approx(10.0)
    task, cancel = worker.take()
    assert isinstance(cancel, CancelTask) and cancel.task == task.task
    await asyncio.sleep(3.0)
    assert not worker.take()  # the tool may still run: its place is taken until the worker says that it stopped
    assert worker.answer(task.task, "late") == ()
    (next_task,) = worker.take()
    await asyncio.sleep(9.0)
    worker.answer(next_task.task, "in time")
    assert await second == "in time"
    assert worker.answer(task.task, "again")[0].task == task.task


async def test_a_task_without_a_timeout_takes_its_tools_own_from_the_worker_that_runs_it() -> None:
    pool = make_pool()
    task = ask(pool)
    await asyncio.sleep(5.0)
    spec = ToolSpec(name="f", timeout_s=10.0)
    worker = pool.register(WorkerRegistration(toolset="set", tools=(spec,)), "default")
    stream = pool.tasks(worker.id)
    message = await anext(stream)
    assert isinstance(message, FunctionTask) and message.timeout_s == 10.0
    with pytest.raises(CallFailure, match="10 s"):
        await task
    assert asyncio.get_running_loop().time() == pytest.approx(15.0)
    await stream.aclose()


async def test_a_cancelled_run_takes_its_task_back_or_leaves_the_queue() -> None:
    pool = make_pool()
    worker = Client(pool, "f", concurrency=1)
    running, waiting, last = ask(pool, call="1"), ask(pool, call="2"), ask(pool, call="3")
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.sleep(0)
    first, cancel = worker.take()
    assert (first.kind, cancel.kind) == ("function", "cancel")
    worker.answer(first.task, None)
    (message,) = worker.take()
    assert isinstance(message, FunctionTask) and message.call == "3"
    worker.answer(message.task, 3)
    assert await last == 3


@pytest.mark.parametrize("how", ["close", "cancel", "remove"])
async def test_a_lost_worker_loses_its_tasks_and_is_forgotten(how: str) -> None:
    pool = make_pool()
    worker = Client(pool, "f")
    task = ask(pool)
    await asyncio.sleep(0)
    worker.take()
    if how == "close":
        await worker.stream.aclose()
    elif how == "remove":
        pool.remove(worker.id)
        with pytest.raises(StopAsyncIteration):
            await anext(worker.stream)
    else:
        reader = asyncio.create_task(anext(worker.stream))
        await asyncio.sleep(0)
        reader.cancel()
    with pytest.raises(CallFailure) as caught:
        await task
    assert caught.value.type == "worker_lost" and caught.value.lost
    with pytest.raises(WorkerUnknown, match="register again"):
        worker.answer("x")
    assert pool._toolsets == {}


async def test_tasks_that_wait_move_to_another_worker_when_theirs_is_lost() -> None:
    pool = make_pool()
    first = Client(pool, "f", concurrency=1)
    lost, waiting = ask(pool, call="1"), ask(pool, call="2")
    await asyncio.sleep(0)
    await first.stream.aclose()
    with pytest.raises(CallFailure):
        await lost
    await asyncio.sleep(20)
    second = Client(pool, "f")
    (message,) = second.take()
    worker_result = second.answer(message.task, "ok")
    assert worker_result == () and await waiting == "ok"


async def test_without_any_worker_a_task_gives_up_after_the_wait_and_says_what_is_missing() -> None:
    pool = make_pool(worker_wait_s=10.0)
    Client(pool, "other")
    with pytest.raises(CallFailure, match="none of its connected workers offers it") as caught:
        await ask(pool)
    assert caught.value.type == "no_worker"
    with pytest.raises(CallFailure, match="no worker of it is connected"):
        await ask(pool, toolset="empty")
    assert asyncio.get_running_loop().time() == pytest.approx(20.0)


async def test_the_wait_starts_anew_when_the_last_worker_goes_and_stops_when_one_comes() -> None:
    pool = make_pool(worker_wait_s=10.0)
    busy = Client(pool, "f", concurrency=1)
    first, second = ask(pool, call="1"), ask(pool, call="2")
    await asyncio.sleep(100)  # a busy worker is a worker: the second call goes on waiting
    assert not second.done()
    await busy.stream.aclose()
    await asyncio.sleep(9)
    assert first.done() and not second.done()
    again = Client(pool, "f", concurrency=1)
    await asyncio.sleep(100)
    again.answer(again.take()[0].task, 2)
    assert await second == 2


async def test_a_worker_without_room_is_one_to_wait_for_all_the_same() -> None:
    pool = make_pool(worker_wait_s=10.0)
    first, second = ask(pool, call="1"), ask(pool, call="2")
    await asyncio.sleep(5)
    worker = Client(pool, "f", concurrency=1)
    await asyncio.sleep(100)
    assert not second.done()
    worker.answer(worker.take()[0].task, 1)
    worker.answer(worker.take()[0].task, 2)
    assert (await first, await second) == (1, 2)


async def test_a_worker_that_never_opens_its_stream_is_forgotten_and_was_never_given_work() -> None:
    pool = make_pool(worker_attach_s=5.0)
    id = pool.register(WorkerRegistration(toolset="set", tools=(ToolSpec(name="f"),)), "default").id
    task = ask(pool)
    await asyncio.sleep(6)
    with pytest.raises(WorkerUnknown):
        pool.tasks(id)
    with pytest.raises(CallFailure):
        await task


async def test_a_stream_is_opened_once() -> None:
    pool = make_pool()
    worker = Client(pool, "f")
    with pytest.raises(Conflict):
        pool.tasks(worker.id)


async def test_registrations_are_checked_and_bounded() -> None:
    pool = make_pool(workers=1)
    bad = (ToolSpec(name="f"), ToolSpec(name="f"), ToolSpec(name="g", parameters={"type": 7}))
    with pytest.raises(InvalidSubmission) as caught:
        pool.register(WorkerRegistration(toolset="set", tools=bad), "default")
    assert [error.pointer for error in caught.value.errors] == ["/tools/1/name", "/tools/2/parameters/type"]
    Client(pool, "f")
    with pytest.raises(Busy, match=r"limits\.workers"):
        Client(pool, "f")


async def test_offered_tools_and_models_are_listed_while_their_worker_is_connected() -> None:
    pool = make_pool()
    first, second = Client(pool, "f"), Client(pool, "f", "g")
    Client(pool, "h", tenant="other")
    listed = {(tool.toolset, tool.spec.name): tool.workers for tool in pool.tools("default")}
    assert listed == {("set", "f"): 2, ("set", "g"): 1}
    assert set(pool.specs("default", "set")) == {"f", "g"} and pool.spec("default", "set", "h") is None
    await second.stream.aclose()
    assert set(pool.specs("default", "set")) == {"f"}
    registration = WorkerRegistration(toolset="set", models=(HostedModel(name="m"),))
    worker = pool.register(registration, "default")
    assert not pool.hosts("default", "set", "m")
    stream = pool.tasks(worker.id)
    assert pool.hosts("default", "set", "m") and not pool.hosts("other", "set", "m")
    await stream.aclose()
    assert not pool.hosts("default", "set", "m")
    del first


async def test_a_worker_that_drains_ends_what_it_runs_and_gets_nothing_more() -> None:
    pool = make_pool(worker_wait_s=30.0)
    leaving = Client(pool, "f", "g")
    first = ask(pool, call="1")
    await asyncio.sleep(0)
    (running,) = leaving.take()
    pool.drain(leaving.id)
    waiting = ask(pool, call="2")
    await asyncio.sleep(10.0)
    assert leaving.take() == []
    other = Client(pool, "f")
    (message,) = other.take()
    other.answer(message.task, 2)
    assert await waiting == 2
    leaving.answer(running.task, 1)
    assert await first == 1
    with pytest.raises(StopAsyncIteration):
        await anext(leaving.stream)
    with pytest.raises(WorkerUnknown):
        pool.drain(leaving.id)
    nobody = ask(pool, "g", call="3")
    with pytest.raises(CallFailure, match="none of its connected workers offers it"):
        await nobody


async def test_what_waits_for_a_worker_that_drains_waits_for_another_from_then_on() -> None:
    pool = make_pool(worker_wait_s=30.0)
    worker = Client(pool, "f", concurrency=1)
    running, waiting = ask(pool, call="1"), ask(pool, call="2")
    await asyncio.sleep(100.0)
    pool.drain(worker.id)
    with pytest.raises(CallFailure, match="30 s"):
        await waiting
    assert asyncio.get_running_loop().time() == 130.0
    worker.answer(worker.take()[0].task, 1)
    assert await running == 1


async def test_a_silent_worker_that_promised_to_beat_is_taken_for_lost() -> None:
    pool = make_pool(heartbeat_s=10.0)
    info = pool.register(WorkerRegistration(toolset="set", tools=(ToolSpec(name="f"),), beats=True), "default")
    pool.tasks(info.id)
    task = ask(pool)
    for _ in range(3):
        await asyncio.sleep(29.0)
        pool.results(info.id, [])  # an empty batch says that it lives
    with pytest.raises(CallFailure) as caught:
        await task
    assert caught.value.lost and asyncio.get_running_loop().time() == 3 * 29.0 + 30.0
    with pytest.raises(WorkerUnknown):
        pool.results(info.id, [])


class PoolMachine(RuleBasedStateMachine):
    """Workers come and go, tasks are asked for, answered and cancelled, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualTimeLoop()
        self.pool = make_pool(worker_wait_s=1000.0)
        self.clients: list[Client] = []
        self.tasks: dict[str, asyncio.Task[Any]] = {}
        self.held: list[tuple[Client, str, str]] = []  # (worker, task, call)
        self.asked = 0

    def _run(self, seconds: float = 0.0) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))
        freed = True
        while freed:  # a worker that stopped a task has room for another one
            freed = False
            for client in self.clients:
                for message in client.take():
                    if isinstance(message, CancelTask):
                        self.held = [h for h in self.held if h[1] != message.task]
                        stopped = partial(client.answer, message.task, None)
                        assert self._inside(stopped) == ()
                        freed = True
                    else:
                        self.held.append((client, message.task, message.call))

    def _inside(self, work: Any) -> Any:
        async def run() -> Any:
            return work()

        return self.loop.run_until_complete(run())

    @rule(concurrency=st.integers(1, 3), cap=st.sampled_from([None, 1]), tools=st.sampled_from([("f",), ("f", "g")]))
    def connect(self, concurrency: int, cap: int | None, tools: tuple[str, ...]) -> None:
        caps = {"f": cap} if cap else {}
        self.clients.append(self._inside(lambda: Client(self.pool, *tools, concurrency=concurrency, caps=caps)))
        self._run()

    @rule(data=st.data())
    def disconnect(self, data: st.DataObject) -> None:
        if self.clients:
            client = self.clients.pop(data.draw(st.integers(0, len(self.clients) - 1)))
            self.loop.run_until_complete(client.stream.aclose())
            self.held = [h for h in self.held if h[0] is not client]
            self._run()

    @rule(tool=st.sampled_from(["f", "g"]))
    def ask(self, tool: str) -> None:
        call = f"c{self.asked}"
        self.asked += 1
        self.tasks[call] = self._inside(lambda: ask(self.pool, tool, call=call))
        self._run()

    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        if self.held:
            client, task, call = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
            assert self._inside(lambda: client.answer(task, call)) == ()
            self._run()
            assert self.tasks.pop(call).result() == call

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if self.tasks:
            call = data.draw(st.sampled_from(sorted(self.tasks)))
            self.tasks.pop(call).cancel()
            self._run()
            assert call not in [held for _, _, held in self.held]

    @invariant()
    def every_task_is_in_one_place(self) -> None:
        self._run()
        lost = [call for call, task in self.tasks.items() if task.done()]
        for call in lost:
            assert isinstance(self.tasks.pop(call).exception(), CallFailure)
        waiting = [
            job.message.call for t in self.pool._toolsets.values() for q in t.waiting.values() for job in q.values()
        ]
        assert Counter([*waiting, *(call for _, _, call in self.held)]) == Counter(list(self.tasks))
        for worker in self.pool._workers.values():
            assert worker.free >= 0
            assert sum(worker.busy.values()) == len(worker.running)
            for skill, cap in worker.skills.items():
                assert cap is None or worker.busy[skill] <= cap
        for toolset in self.pool._toolsets.values():
            for skill, queue in toolset.waiting.items():
                assert queue and toolset.free_worker(skill) is None, "a task waits though a worker has room"
                for job in queue.values():
                    assert (job.timer is None) == toolset.offers(skill)

    def teardown(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        self._run()
        self.loop.close()


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


@given(st.integers(1, 50), st.integers(1, 8))
def test_load_is_balanced_by_free_room(tasks: int, workers: int) -> None:
    async def run() -> None:
        pool = make_pool()
        clients = [Client(pool, "f", concurrency=100) for _ in range(workers)]
        for _ in range(tasks):
            ask(pool)
        await asyncio.sleep(0)
        counts = [len(client.take()) for client in clients]
        assert sum(counts) == tasks and max(counts) - min(counts) <= 1

    loop = VirtualTimeLoop()
    loop.run_until_complete(run())
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


async def test_large_arguments_go_by_reference_to_workers_that_can_read_them_and_whole_to_others() -> None:
    pool = make_pool()
    plain = Client(pool, "f")
    able = Client(pool, "g")
    registration = WorkerRegistration(toolset="set", tools=(ToolSpec(name="g"),), fetches=True)
    pool._workers[able.id].registration = registration
    large = {"rows": Reference(variable="found", path=("rows", 0))}
    for tool in ("f", "g"):
        ask(pool, tool, arguments={"rows": ["long"], "n": 1}, large=large)
    await asyncio.sleep(0)
    (whole,), (short,) = plain.take(), able.take()
    assert isinstance(whole, FunctionTask) and isinstance(short, FunctionTask)
    assert (whole.arguments, whole.fetch) == ({"rows": ["long"], "n": 1}, {})
    assert (short.arguments, short.fetch) == ({"n": 1}, large)
    assert short.idempotency_key.rpartition("/")[2] == whole.idempotency_key.rpartition("/")[2]
