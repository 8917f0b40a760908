"""The supervisor: start, death, backoff, waiting calls, a model that cannot be served. All in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

import pytest

from engine.protocol import (
    Capabilities,
    EngineEvent,
    EngineEventKind,
    EngineLost,
    Estimate,
    FinishReason,
    GenerateRequest,
    Lease,
    LeaseGrant,
    LeaseOutcome,
    ModelInfo,
    ModelLoadError,
    PriorityKey,
    QueueFull,
    Tier,
    TokenChunk,
)
from orchestrator.engines import Backoff, EngineNotReady, EnginePool, EngineStatus, SupervisedEngine
from orchestrator.engines.errors import NoEngine, UnknownModel
from orchestrator.virtual_time import VirtualClock, run_virtually

T = TypeVar("T")


class FakeProcess:
    """An engine that answers each call after a second and dies when told to."""

    def __init__(self) -> None:
        self.alive = True
        self.closed = False
        self.log: list[str] = []
        self.happenings: asyncio.Queue[EngineEvent] = asyncio.Queue()
        self._death: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    name = "tiny"
    capabilities = Capabilities(grammar=True)
    model = ModelInfo("tiny", context_tokens=64, vocab_size=100)

    def die(self, reason: str) -> None:
        self.alive = False
        self._death.set_result(reason)

    async def lost(self) -> str:
        return await asyncio.shield(self._death)

    async def generate(self, request: GenerateRequest) -> AsyncIterator[TokenChunk]:
        done, _ = await asyncio.wait({self._death}, timeout=1.0)
        if done:
            raise EngineLost(self._death.result())
        yield TokenChunk(request.id, (1,), FinishReason.STOP)

    async def reprioritize(self, program: str, key: PriorityKey) -> None:
        self.log.append(f"reprioritize {program}")

    async def limit_running(self, limit: int) -> None:
        return

    async def retain(self, lease: Lease) -> LeaseGrant:
        return LeaseGrant(lease.id, 10, Tier.DEVICE, lease.ttl_s)

    async def extend(self, lease: str, ttl_s: float) -> LeaseGrant:
        return LeaseGrant(lease, 10, Tier.DEVICE, ttl_s)

    async def release(self, lease: str, outcome: LeaseOutcome) -> None:
        self.log.append(f"release {lease}")

    async def demote(self, lease: str) -> LeaseGrant:
        return LeaseGrant(lease, 10, Tier.HOST, 1.0)

    async def prefetch(self, lease: str, within_s: float) -> None:
        self.log.append(f"prefetch {lease}")

    async def abort(self, request: str) -> None:
        self.log.append(f"abort {request}")

    async def estimate(self, prompt_ids: tuple[int, ...], salt: str = "") -> Estimate:
        return Estimate({Tier.DEVICE: len(prompt_ids)}, 0.0, 0.0)

    async def events(self) -> AsyncIterator[EngineEvent]:
        while True:
            happening = asyncio.ensure_future(self.happenings.get())
            await asyncio.wait({happening, self._death}, return_when=asyncio.FIRST_COMPLETED)
            if not happening.done():
                happening.cancel()
                raise EngineLost(self._death.result())
            yield happening.result()

    async def close(self) -> None:
        self.closed = True


class Factory:
    """Starts fakes in `load_s` each. `faults`: what the first starts raise instead."""

    def __init__(self, *faults: Exception, load_s: float = 2.0) -> None:
        self.faults = list(faults)
        self.load_s = load_s
        self.started: list[FakeProcess] = []
        self.times: list[float] = []

    async def __call__(self) -> FakeProcess:
        self.times.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self.load_s)
        if self.faults:
            raise self.faults.pop(0)
        self.started.append(FakeProcess())
        return self.started[-1]


def supervised(factory: Factory, **options: Any) -> SupervisedEngine:
    engine = SupervisedEngine("tiny", factory, clock=VirtualClock(), **options)
    engine.start()
    return engine


async def say(engine: SupervisedEngine, name: str) -> str:
    return "".join([chunk.text async for chunk in engine.generate(GenerateRequest(id=name, program="p"))])


def virtually(test: Callable[[], Coroutine[Any, Any, T]]) -> Callable[[], T]:
    def run() -> T:
        return run_virtually(test())

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


@virtually
async def test_calls_that_arrive_while_the_engine_starts_wait_for_it() -> None:
    engine = supervised(Factory())
    assert engine.state.status is EngineStatus.STARTING
    assert await asyncio.gather(say(engine, "a"), say(engine, "b")) == ["a", "b"]
    assert asyncio.get_running_loop().time() == 3.0  # two seconds of loading, one of generating
    assert engine.state.status is EngineStatus.READY
    assert engine.model.context_tokens == 64
    assert engine.capabilities.grammar
    await engine.close()


@virtually
async def test_running_calls_raise_engine_lost_and_later_ones_wait_for_the_next_process() -> None:
    factory = Factory()
    engine = supervised(factory)
    await engine.ready()
    running = asyncio.create_task(say(engine, "running"))
    await asyncio.sleep(0.5)
    factory.started[0].die("exit code -9")
    later = asyncio.create_task(say(engine, "later"))
    with pytest.raises(EngineLost, match="exit code -9"):
        await running
    assert await later == "later"
    assert factory.started[0].closed
    assert len(factory.started) == 2
    assert engine.state.restarts == 1
    # 2.0 loaded, 2.5 died, 0.1 of backoff, 2.0 loading, 1.0 generating
    assert asyncio.get_running_loop().time() == pytest.approx(5.6)
    await engine.close()


@virtually
async def test_no_call_reaches_a_dead_process_before_its_supervisor_has_heard_of_it() -> None:
    factory = Factory()
    engine = supervised(factory)
    await engine.ready()
    factory.started[0].die("gone")
    # Nothing has run since: the supervisor cannot know yet.
    assert await say(engine, "after") == "after"
    await engine.close()


@virtually
async def test_restarts_back_off_and_begin_anew_after_healthy_service() -> None:
    factory = Factory(*(OSError("no memory") for _ in range(5)), load_s=0.0)
    engine = supervised(factory, backoff=Backoff(first_s=1.0, max_s=5.0, healthy_s=60.0), start_wait_s=1000.0)
    await engine.ready()
    gaps = [later - earlier for earlier, later in zip(factory.times, factory.times[1:], strict=False)]
    assert gaps == [1.0, 2.0, 4.0, 5.0, 5.0]
    await asyncio.sleep(61.0)
    died_s = asyncio.get_running_loop().time()
    factory.started[0].die("later")
    await asyncio.sleep(0.0)
    await engine.ready()
    assert asyncio.get_running_loop().time() - died_s == 1.0
    await engine.close()


@virtually
async def test_a_model_that_cannot_load_fails_every_call_with_its_message_and_is_not_tried_again() -> None:
    factory = Factory(ModelLoadError("/models/x/config.json: file is missing"))
    engine = supervised(factory)
    for _ in range(2):
        with pytest.raises(ModelLoadError, match=r"config\.json: file is missing"):
            await say(engine, "a")
    await asyncio.sleep(3600.0)
    assert len(factory.times) == 1
    assert engine.state.status is EngineStatus.FAILED
    assert "config.json" in engine.state.reason
    with pytest.raises(ModelLoadError):
        _ = engine.model
    await engine.close()


@virtually
async def test_waiting_is_bounded_in_time_and_says_why_the_engine_is_not_there() -> None:
    factory = Factory(*(OSError("cannot fork") for _ in range(1000)))
    engine = supervised(factory, start_wait_s=30.0)
    with pytest.raises(EngineNotReady, match="not ready within 30 s: the engine process failed: OSError: cannot fork"):
        await say(engine, "a")
    assert asyncio.get_running_loop().time() == 30.0
    await engine.close()


@virtually
async def test_waiting_is_bounded_in_number() -> None:
    engine = supervised(Factory(load_s=10.0), max_waiting=2)
    waiting = [asyncio.create_task(say(engine, str(i))) for i in range(2)]
    await asyncio.sleep(1.0)
    with pytest.raises(QueueFull, match="2 calls already wait"):
        await say(engine, "c")
    assert await asyncio.gather(*waiting) == ["0", "1"]
    await engine.close()


@virtually
async def test_an_unforeseen_fault_of_the_factory_does_not_end_supervision() -> None:
    engine = supervised(Factory(RuntimeError("bug")))
    assert await say(engine, "a") == "a"
    assert engine.state.restarts == 1
    await engine.close()


@virtually
async def test_close_ends_what_waits_and_the_process() -> None:
    factory = Factory()
    engine = supervised(factory)
    waiting = asyncio.create_task(say(engine, "a"))
    await asyncio.sleep(1.0)
    await engine.close()
    with pytest.raises(EngineNotReady, match="closing"):
        await waiting
    assert factory.started == []
    await engine.close()
    engine.start()
    assert engine.state.status is EngineStatus.CLOSED

    second = supervised(factory)
    await second.ready()
    await second.close()
    assert factory.started[0].closed


@virtually
async def test_nothing_is_resident_while_the_engine_is_down() -> None:
    engine = supervised(Factory())
    lease = Lease("l", "p", (1, 2), 5.0)
    for grant in (await engine.retain(lease), await engine.extend("l", 1.0), await engine.demote("l")):
        assert (grant.lease, grant.bytes, grant.tier) == ("l", 0, None)
    await engine.release("l", LeaseOutcome.FINAL)
    await engine.abort("r")
    await engine.reprioritize("p", (1.0,))
    await engine.prefetch("l", 1.0)
    with pytest.raises(EngineNotReady):
        await engine.estimate((1, 2))
    with pytest.raises(EngineNotReady):
        _ = engine.model
    await engine.close()


@virtually
async def test_everything_reaches_the_process_while_it_is_up() -> None:
    factory = Factory()
    engine = supervised(factory)
    await engine.ready()
    assert (await engine.retain(Lease("l", "p", (1, 2), 5.0))).bytes == 10
    assert (await engine.extend("l", 7.0)).expires_in_s == 7.0
    assert (await engine.demote("l")).tier is Tier.HOST
    await engine.release("l", LeaseOutcome.FINAL)
    await engine.abort("r")
    await engine.reprioritize("p", (1.0,))
    await engine.prefetch("l", 1.0)
    assert (await engine.estimate((1, 2))).cached_tokens == {Tier.DEVICE: 2}
    assert factory.started[0].log == ["release l", "abort r", "reprioritize p", "prefetch l"]
    await engine.close()


@virtually
async def test_events_go_on_over_a_restart_and_end_with_the_engine() -> None:
    factory = Factory()
    engine = supervised(factory)
    seen: list[str] = []

    async def follow() -> None:
        async for event in engine.events():
            seen.append(event.program or event.kind.value)

    follower = asyncio.create_task(follow())
    for program in ("first", "second"):
        await engine.ready()
        process = factory.started[-1]
        process.happenings.put_nowait(EngineEvent(EngineEventKind.STORED, program, 1))
        await asyncio.sleep(1.0)
        process.die("gone")
        await asyncio.sleep(0.0)
    await engine.close()
    await follower
    assert seen == ["first", "lost", "second", "lost"], "what was resident died with each process"


@virtually
async def test_a_pool_finds_engines_by_model_and_closes_them_all() -> None:
    factory = Factory()
    one = SupervisedEngine("one", factory, clock=VirtualClock())
    two = SupervisedEngine("two", factory, clock=VirtualClock())
    pool = EnginePool([one, two], default="two")
    pool.start()
    assert pool.models() == ("two", "one")
    assert pool.for_model(None) is two
    assert pool.for_model("one") is one
    with pytest.raises(UnknownModel, match=r"'three'.*'two', 'one'"):
        pool.for_model("three")
    with pytest.raises(UnknownModel):
        EnginePool([one], default="two")
    await one.ready()
    assert {state.status for state in pool.states()} == {EngineStatus.READY}
    await pool.close()
    assert all(process.closed for process in factory.started)


def test_a_pool_without_engines_says_how_to_get_one() -> None:
    pool = EnginePool()
    assert pool.default is None
    assert pool.models() == ()
    assert pool.states() == ()
    with pytest.raises(NoEngine, match="--model"):
        pool.for_model(None)


def test_backoff_does_not_overflow() -> None:
    assert Backoff(first_s=0.1, max_s=10.0).delay_s(100_000) == 10.0
