"""The local engine's core: what requests get, what bad ones are told, and that faults stay where they arose."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from engine.clock import ManualClock
from engine.config import EngineConfig
from engine.loading import load_engine
from engine.local import LocalEngine
from engine.protocol import (
    ChatMessage,
    EngineError,
    FinishReason,
    GenerateRequest,
    InvalidRequest,
    Lease,
    LeaseOutcome,
    NumericalFault,
    PromptTooLong,
    QueueFull,
    SamplingParams,
    Tier,
)
from tests.engine.fakes import POISON, expected_output, fake_engine
from tests.engine.serve import Result, collect, request, serve


@pytest.fixture
def engine(model_dir: Path) -> LocalEngine:
    return load_engine(EngineConfig(str(model_dir), threads=1), ManualClock())


def chat(name: str, content: str = "hello", **sampling: object) -> GenerateRequest:
    params = SamplingParams(**{"max_tokens": 30, "ignore_eos": True, **sampling})  # type: ignore[arg-type]
    return GenerateRequest(name, "p", messages=(ChatMessage("user", content),), sampling=params)


def test_streamed_text_is_the_decoding_of_all_ids(engine: LocalEngine) -> None:
    results = serve(engine, *(chat(f"r{seed}", temperature=1.5, seed=seed) for seed in range(8)))
    for result in results.values():
        assert result.text == engine._codec.decode(result.ids)
        assert len(result.chunks) > 5, "nothing was streamed"
        assert not any("\ufffd" in piece for piece in result.chunks if "\ufffd" not in result.text)


def test_messages_and_their_ids_are_the_same_prompt(engine: LocalEngine) -> None:
    ids = engine._codec.encode(engine._codec.render((ChatMessage("user", "hello"),)))
    results = serve(engine, chat("messages"), request("ids", ids, 30))
    assert results["messages"].ids == results["ids"].ids
    assert results["messages"].usage is not None and results["messages"].usage.prompt_tokens == len(ids)


def test_an_end_token_ends_and_shows_no_text(engine: LocalEngine) -> None:
    free = serve(engine, chat("free", temperature=1.0, seed=1))["free"]
    engine._eos_ids = frozenset({free.ids[7]})
    first = free.ids.index(free.ids[7])
    ended = serve(engine, chat("ended", temperature=1.0, seed=1, ignore_eos=False))["ended"]
    assert ended.finish is FinishReason.STOP
    assert ended.ids == free.ids[: first + 1] and ended.text == engine._codec.decode(free.ids[:first])
    assert len(serve(engine, chat("ignored", temperature=1.0, seed=1))["ignored"].ids) == 30


def test_a_stop_string_cuts_the_text_and_keeps_the_ids(engine: LocalEngine) -> None:
    free = serve(engine, chat("free"))["free"]
    stop = free.text[len(free.text) // 2 :][:4]
    cut = serve(engine, chat("cut", stop=(stop, "never there")))["cut"]
    assert cut.finish is FinishReason.STOP and cut.text == free.text[: free.text.index(stop)]
    assert cut.ids == free.ids[: len(cut.ids)] and len(cut.ids) < 30


def test_times_come_from_the_clock() -> None:
    clock = ManualClock()
    engine, runner = fake_engine(clock, 32, token_budget=24)
    run = runner.run

    def slow(step):  # type: ignore[no-untyped-def]
        clock.advance(0.5)
        return run(step)

    runner.run = slow  # type: ignore[method-assign]
    engine.submit(request("r", list(range(1, 41)), 5))
    clock.advance(2.0)
    results: dict[str, Result] = {}
    collect(engine, results)
    usage = results["r"].usage
    assert usage is not None
    assert (usage.queue_s, usage.prefill_s, usage.decode_s) == (2.0, 1.0, 2.0)
    assert (usage.prompt_tokens, usage.cached_tokens, usage.output_tokens) == (40, 0, 5)


@pytest.mark.parametrize(
    ("bad", "error", "named"),
    [
        (request("x", [], 5), InvalidRequest, "messages or prompt_ids"),
        (request("x", [1, 2, 383 + 5], 5), InvalidRequest, "prompt id 388"),
        (request("x", [-1], 5), InvalidRequest, "prompt id -1"),
        (request("x", [1], 0), InvalidRequest, "max_tokens"),
        (request("x", [1], 5, temperature=-0.5), InvalidRequest, "temperature"),
        (request("x", [1], 5, temperature=float("nan")), InvalidRequest, "temperature"),
        (request("x", [1], 5, top_p=0.0), InvalidRequest, "top_p"),
        (request("x", [1], 5, top_k=-1), InvalidRequest, "top_k"),
        (request("x", [1], 5, min_p=1.5), InvalidRequest, "min_p"),
        (request("x", [1], 5, stop=("",)), InvalidRequest, "stop"),
        (request("x", [1], 5, seed=0.5), InvalidRequest, "seed"),
        (request("x", [1], 5, logit_bias=((999, 1.0),)), InvalidRequest, "logit_bias id 999"),
        (request("x", [1], 5, key=float("nan")), InvalidRequest, "priority key"),
        (request("x", [1], 5, key=None), InvalidRequest, "priority key"),  # type: ignore[arg-type]
        (request("x", ["a"], 5), InvalidRequest, "prompt id 'a'"),  # type: ignore[list-item]
        (request("x", [5] * 256, 5), PromptTooLong, "256 tokens"),
        (chat("x", "word " * 400), PromptTooLong, "the context is 256"),
        (chat("x", "x" * 10_000_000), PromptTooLong, "characters"),
    ],
)
def test_a_bad_request_is_told_why_and_harms_nothing(
    engine: LocalEngine, bad: GenerateRequest, error: type[EngineError], named: str
) -> None:
    engine.submit(chat("good"))
    engine.step()
    with pytest.raises(error) as raised:
        engine.submit(bad)
    assert named in str(raised.value)
    engine.check()
    results: dict[str, Result] = {}
    collect(engine, results)
    assert list(results) == ["good"] and results["good"].finish is FinishReason.LENGTH


def test_the_longest_prompt_gets_one_token(engine: LocalEngine) -> None:
    result = serve(engine, request("r", [5 + i % 9 for i in range(255)], 50))["r"]
    assert len(result.ids) == 1 and result.finish is FinishReason.LENGTH


def test_an_id_in_use_is_refused_and_free_again_after_the_end(engine: LocalEngine) -> None:
    engine.submit(chat("same"))
    with pytest.raises(InvalidRequest, match="'same' is in use"):
        engine.submit(chat("same"))
    collect(engine, {})
    assert serve(engine, chat("same"))["same"].finish is FinishReason.LENGTH


def test_a_full_queue_is_said_so_and_drains() -> None:
    engine, _ = fake_engine(ManualClock(), 32, queue_limit=3, max_running=1)
    for index in range(3):
        engine.submit(request(f"r{index}", [1 + index], 4))
    with pytest.raises(QueueFull):
        engine.submit(request("r3", [9], 4))
    results: dict[str, Result] = {}
    collect(engine, results)
    assert sorted(results) == ["r0", "r1", "r2"]


def test_aborting_waiting_running_and_ended_requests() -> None:
    engine, _ = fake_engine(ManualClock(), 32, max_running=1)
    engine.submit(request("running", [1] * 20, 50))
    engine.submit(request("waiting", [2] * 20, 50))
    results: dict[str, Result] = {}
    collect(engine, results, steps=3)
    engine.abort("running")
    engine.abort("waiting")
    engine.abort("nobody")
    engine.check()
    collect(engine, results)
    engine.abort("running")
    assert not engine.has_work
    assert results["running"].finish is results["waiting"].finish is FinishReason.ABORTED
    assert len(results["running"].ids) == 3 and results["waiting"].ids == []
    assert results["waiting"].usage is not None and results["waiting"].usage.output_tokens == 0


def test_nan_weights_fail_one_request_and_poison_nothing(engine: LocalEngine) -> None:
    rng = random.Random(2)
    prompts = {f"good{i}": [rng.randrange(4, 380) for _ in range(20 + 13 * i)] for i in range(4)}
    expected = serve(engine, *(request(name, ids, 12) for name, ids in prompts.items()))
    with torch.inference_mode():
        engine._runner._decoder.weights.embedding[3] = float("nan")  # type: ignore[attr-defined]
    shared = prompts["good3"]
    bad = request("bad", [*shared[:35], 3, *shared[35:]], 12)
    again = [request(f"{name}-again", ids, 12) for name, ids in prompts.items()]
    results = serve(engine, again[0], bad, *again[1:])
    assert isinstance(results["bad"].error, NumericalFault)
    for name, result in expected.items():
        assert results[f"{name}-again"].ids == result.ids
    # Short requests beside a long one: what is behind the mask in the blocks that they reuse must be finite.
    fillers = [request(f"short{i}", [rng.randrange(4, 380) for _ in range(1 + i % 7)], 4) for i in range(20)]
    fillers.append(request("long", [rng.randrange(4, 380) for _ in range(90)], 4))
    assert not any(result.error for result in serve(engine, *fillers).values())
    assert serve(engine, request("last", prompts["good3"], 12))["last"].ids == expected["good3"].ids


def test_a_poisoned_prefix_is_not_found_again() -> None:
    engine, _ = fake_engine(ManualClock(), 32)
    bad = [*range(1, 30), POISON, *range(30, 60)]
    results = serve(engine, request("bad", bad, 5), request("same", bad, 5), request("good", bad[:29], 5))
    assert isinstance(results["bad"].error, NumericalFault) and isinstance(results["same"].error, NumericalFault)
    assert results["good"].ids == expected_output(bad[:29], 5)
    assert engine.estimate(tuple(bad)).cached_tokens == {Tier.DEVICE: 0}, "the faulty blocks are listed"


def test_a_failing_step_fails_its_requests_and_no_others() -> None:
    engine, runner = fake_engine(ManualClock(), 32, max_running=2)
    for index in range(4):
        engine.submit(request(f"r{index}", [10 + index] * 20, 6))
    runner.crash = RuntimeError("device lost")
    results: dict[str, Result] = {}
    collect(engine, results)
    for name in ("r0", "r1"):
        assert isinstance(results[name].error, EngineError) and "device lost" in str(results[name].error)
    for index in (2, 3):
        assert results[f"r{index}"].ids == expected_output([10 + index] * 20, 6)


def test_a_lease_keeps_a_chain_that_would_be_evicted() -> None:
    clock = ManualClock()
    engine, _ = fake_engine(clock, 12)
    prompt = list(range(1, 50))
    ids = serve(engine, request("first", prompt, 10, program="agent"))["first"].ids
    chain = tuple(prompt + ids)
    assert engine.retain(Lease("l", "agent", chain, 30.0)).bytes == 3 * 16
    for index in range(6):
        serve(engine, request(f"other{index}", [200 + index] * 80, 4))
    turn = serve(engine, request("second", [*chain, 7], 4, program="agent"))["second"]
    assert turn.usage is not None and turn.usage.cached_tokens == 48
    engine.release("l", LeaseOutcome.HANDOFF)
    for index in range(6):
        serve(engine, request(f"more{index}", [300 + index] * 80, 4))
    third = serve(engine, request("third", [*chain, 8], 4, program="agent"))["third"]
    assert third.usage is not None and third.usage.cached_tokens == 0


def test_leases_give_way_only_when_work_cannot_go_on() -> None:
    engine, _ = fake_engine(ManualClock(), 8, lease_share=1.0)
    for index in range(2):
        prompt = list(range(100 * index + 1, 100 * index + 34))
        serve(engine, request(f"r{index}", prompt, 1))
        assert engine.retain(Lease(f"l{index}", "p", tuple(prompt), 60.0, rank=float(index))).bytes == 2 * 16
    small = serve(engine, request("small", [5] * 30, 10))["small"]
    assert small.finish is FinishReason.LENGTH
    assert len(engine._cache.leases) == 2, "a lease was broken although there was room"
    large = serve(engine, request("large", [6] * 70, 10))["large"]
    assert large.ids == expected_output([6] * 70, 10)
    ended = {event.lease: event.outcome for event in engine.drain_events() if event.outcome}
    assert ended == {"l0": LeaseOutcome.PRESSURE}, "the lease of smaller rank goes first, and no more than needed"


def test_demoting_without_a_lower_tier_gives_up_and_says_so() -> None:
    engine, _ = fake_engine(ManualClock(), 8)
    serve(engine, request("r", list(range(1, 40)), 1))
    assert engine.retain(Lease("l", "p", tuple(range(1, 40)), 60.0)).tier is Tier.DEVICE
    grant = engine.demote("l")
    assert (grant.bytes, grant.tier) == (0, None)
    host = engine.retain(Lease("h", "p", tuple(range(1, 40)), 60.0, tier=Tier.HOST))
    assert (host.bytes, host.tier) == (0, None)
    assert engine.next_deadline_s() is None


def test_estimates_learn_the_speed_of_prefill() -> None:
    clock = ManualClock()
    engine, runner = fake_engine(clock, 64)
    assert engine.estimate(tuple(range(1, 50))).prefill_s == 0.0
    run = runner.run

    def timed(step):  # type: ignore[no-untyped-def]
        clock.advance(0.01 * step.tokens)
        return run(step)

    runner.run = timed  # type: ignore[method-assign]
    serve(engine, request("r", list(range(1, 50)), 1))
    estimate = engine.estimate(tuple(range(1, 66)))
    assert estimate.cached_tokens == {Tier.DEVICE: 48}
    assert estimate.prefill_s == pytest.approx(17 * 0.01)
    engine.submit(request("queued", [3] * 100, 1))
    assert engine.estimate((1,)).queue_s == pytest.approx(1.0)
