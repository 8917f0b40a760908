"""The loop around a core: long requests are read beside it, short ones within it, and aborts reach both."""

from __future__ import annotations

from threading import Event, Thread, current_thread
from typing import Any

import pytest

from engine.clock import ManualClock
from engine.driver import Driver
from engine.intake import Prepared
from engine.ipc import Call, Method, Output
from engine.protocol import (
    EngineError,
    FinishReason,
    GenerateRequest,
    InvalidRequest,
    Lease,
    LeaseOutcome,
    SamplingParams,
    TokenChunk,
)
from tests.engine.fakes import expected_output, fake_engine

LONG = tuple(1 + index % 900 for index in range(2_500))
SHORT = tuple(range(1, 40))


class Bench:
    """A driver in a thread; what it says is kept by request, and `heard` is set at each end."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.core, _ = fake_engine(self.clock, 400, context_tokens=4_000, token_budget=4_000, lease_share=1.0)
        self.driver = Driver(self.core, self.clock, self.hear)
        self.items: dict[str, list[TokenChunk | EngineError]] = {}
        self.ended: dict[str, Event] = {}
        self.events: list[Any] = []
        self.threads: list[str] = []
        self.gate = Event()
        self.gate.set()
        prepare = self.core.prepare

        def watched(request: GenerateRequest) -> Prepared:
            self.threads.append(current_thread().name)
            if len(request.prompt_ids) > 2_000:
                assert self.gate.wait(10)
            return prepare(request)

        self.core.prepare = watched  # type: ignore[method-assign]
        self.thread = Thread(target=self.driver.run, name="steps")
        self.thread.start()

    def hear(self, output: Output) -> None:
        self.events += output.events
        for request, item in output.deliveries:
            self.items.setdefault(request, []).append(item)
            if isinstance(item, EngineError) or item.finish is not None:
                self.ended[request].set()

    def ask(self, name: str, prompt: tuple[int, ...], **changes: Any) -> None:
        self.ended.setdefault(name, Event()).clear()
        request = GenerateRequest(name, "p", prompt_ids=prompt, sampling=SamplingParams(max_tokens=5), **changes)
        self.driver.post(Call(0, Method.GENERATE, (request,)))

    def wait(self, name: str) -> TokenChunk | EngineError:
        assert self.ended[name].wait(10), f"{name} never ended"
        return self.items[name][-1]

    def ids(self, name: str) -> list[int]:
        self.wait(name)
        return [token for item in self.items[name] if isinstance(item, TokenChunk) for token in item.token_ids]

    def close(self) -> None:
        self.gate.set()
        self.driver.post(Call(0, Method.CLOSE))
        self.thread.join(10)
        assert not self.thread.is_alive()


@pytest.fixture
def bench() -> Any:
    it = Bench()
    yield it
    it.close()


def test_a_long_prompt_is_read_beside_the_steps_and_holds_nobody_up(bench: Bench) -> None:
    bench.gate.clear()
    bench.ask("long", LONG)
    bench.ask("short", SHORT)
    assert bench.ids("short") == expected_output(SHORT, 5)
    assert not bench.ended["long"].is_set()
    bench.gate.set()
    assert bench.ids("long") == expected_output(LONG, 5)
    assert sorted(bench.threads) == ["requests", "steps"]


def test_an_abort_reaches_a_request_that_is_still_read(bench: Bench) -> None:
    bench.gate.clear()
    bench.ask("long", LONG)
    bench.driver.post(Call(0, Method.ABORT, ("long",)))
    last = bench.wait("long")
    assert isinstance(last, TokenChunk) and last.finish is FinishReason.ABORTED and last.usage is not None
    bench.ask("long", LONG, salt="again")
    bench.gate.set()
    bench.items["long"].clear()
    assert bench.ids("long") == expected_output(LONG, 5), "the name is free again, and the first reading is dropped"
    assert len([item for item in bench.items["long"] if isinstance(item, TokenChunk) and item.finish]) == 1


def test_a_name_in_use_is_refused_while_its_request_is_read(bench: Bench) -> None:
    bench.gate.clear()
    bench.ask("long", LONG)
    bench.ask("long", SHORT)
    assert isinstance(bench.wait("long"), InvalidRequest)
    bench.gate.set()


def test_a_lease_waits_for_its_programs_call_that_is_still_read(bench: Bench) -> None:
    bench.ask("first", SHORT, hold_s=5.0)
    bench.wait("first")
    bench.gate.clear()
    bench.ask("next", LONG)
    bench.ask("other", (3, 4, 5))
    bench.wait("other")
    bench.clock.advance(6.0)
    bench.ask("turn", (5, 6, 7))
    bench.wait("turn")
    assert not [event for event in bench.events if event.outcome is not None], "it ended before its call was here"
    bench.gate.set()
    bench.wait("next")
    bench.ask("last", (8, 9))
    bench.wait("last")
    assert [event.outcome for event in bench.events if event.outcome is not None] == [LeaseOutcome.EXPIRED]


def test_a_long_request_that_cannot_be_read_ends_with_its_error(bench: Bench) -> None:
    bench.ask("bad", (*LONG, 1_000_000))
    assert isinstance(bench.wait("bad"), InvalidRequest)
    bench.ask("good", SHORT)
    assert bench.ids("good") == expected_output(SHORT, 5)
    assert bench.core.retain(Lease("l", "p", SHORT, 5.0)).bytes > 0
