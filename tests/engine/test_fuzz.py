"""Random traffic over scheduler, blocks, prefixes, leases and aborts, without a model; everything checked each step."""

from __future__ import annotations

import random

import pytest

from engine.clock import ManualClock
from engine.config import BLOCK_TOKENS
from engine.protocol import (
    EngineError,
    EngineEventKind,
    FinishReason,
    GenerateRequest,
    Lease,
    LeaseOutcome,
    QueueFull,
    SamplingParams,
)
from tests.engine.fakes import POISON, VOCAB, expected_output, fake_engine

STEPS = 2_500


class Traffic:
    """Programs that share prefixes, continue their own chains, hold leases, change their minds."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        rng = self.rng
        self.blocks = rng.choice((6, 12, 24, 48))
        self.clock = ManualClock()
        self.engine, self.runner = fake_engine(
            self.clock,
            self.blocks,
            context_tokens=rng.choice((96, 160)),
            token_budget=rng.choice((24, 40, 64, 200)),
            max_running=rng.choice((1, 3, 8)),
            queue_limit=12,
            lease_share=rng.choice((0.0, 0.4, 1.0)),
            max_lease_ttl_s=50.0,
        )
        # The same paragraphs in another order are another prefix, though their blocks hold the same tokens.
        paragraphs = [[rng.randrange(1, VOCAB) for _ in range(BLOCK_TOKENS)] for _ in range(3)]
        self.prefixes = [
            [token for paragraph in rng.choices(paragraphs, k=rng.randrange(5)) for token in paragraph]
            + [rng.randrange(1, VOCAB) for _ in range(rng.randrange(1, 10))]
            for _ in range(6)
        ]
        self.prompts: dict[str, tuple[tuple[int, ...], int]] = {}
        self.outputs: dict[str, list[int]] = {}
        self.chains: list[tuple[str, tuple[int, ...]]] = []
        self.leases: dict[str, list[LeaseOutcome]] = {}
        self.aborted: set[str] = set()
        self.finished = 0
        self.number = 0

    def submit(self) -> None:
        rng = self.rng
        program, prompt = f"p{rng.randrange(6)}", list(rng.choice(self.prefixes))
        if self.chains and rng.random() < 0.5:
            program, chain = rng.choice(self.chains)
            prompt = list(chain)
        prompt = prompt[: rng.randrange(1, len(prompt) + 1)] if rng.random() < 0.1 else prompt
        prompt += [rng.randrange(1, VOCAB) for _ in range(rng.randrange(0, 20))]
        if rng.random() < 0.03:
            prompt[rng.randrange(len(prompt))] = POISON
        self.number += 1
        name, tokens = f"r{self.number}", rng.randrange(1, 60)
        room = self.engine.model.context_tokens - len(prompt)
        request = GenerateRequest(
            name,
            program,
            prompt_ids=tuple(prompt),
            sampling=SamplingParams(max_tokens=tokens),
            key=(float(rng.randrange(4)),),
            salt=rng.choice(("", "", "tenant")),
        )
        try:
            self.engine.submit(request)
        except QueueFull:
            return
        except EngineError:
            assert room < 1
            return
        self.prompts[name] = request.prompt_ids, min(tokens, room)
        self.outputs[name] = []

    def act(self) -> None:
        rng, engine = self.rng, self.engine
        draw = rng.random()
        if draw < 0.35:
            self.submit()
        elif draw < 0.40 and self.prompts:
            name = rng.choice(list(self.prompts))
            self.aborted.add(name)
            engine.abort(name)
        elif draw < 0.50:
            engine.reprioritize(f"p{rng.randrange(6)}", (float(rng.randrange(4)), rng.random()))
        elif draw < 0.60 and self.chains:
            program, chain = rng.choice(self.chains)
            name = f"l{rng.randrange(12)}"
            if name in self.leases and not self.leases[name]:
                engine.extend(name, rng.uniform(0.1, 30.0))
            else:
                name = f"l{len(self.leases) + 12}"
                lease = Lease(name, program, chain, rng.uniform(0.1, 30.0), rank=float(rng.randrange(5)))
                grant = engine.retain(lease)
                assert grant.bytes % BLOCK_TOKENS == 0
                if grant.bytes:
                    self.leases[name] = []
        elif draw < 0.64 and self.leases:
            engine.release(rng.choice(list(self.leases)), LeaseOutcome.HANDOFF)
        elif draw < 0.66 and self.leases:
            engine.demote(rng.choice(list(self.leases)))
        elif draw < 0.70:
            self.clock.advance(rng.uniform(0.0, 5.0))
        elif draw < 0.705 and engine.has_work:
            self.runner.crash = RuntimeError("device lost")

    def step(self) -> None:
        before, crashing = self.runner.steps, self.runner.crash is not None
        worked = self.engine._scheduler.has_work
        for name, item in self.engine.step():
            if isinstance(item, EngineError):
                assert crashing or POISON in self.prompts[name][0], item
                del self.prompts[name]
                continue
            self.outputs[name] += item.token_ids
            if item.finish is not None:
                self.end(name, item.finish)
        assert self.runner.steps == before + worked, "there was work and the step did none"
        self.engine.check()
        for event in self.engine.drain_events():
            if event.kind is EngineEventKind.LEASE_ENDED:
                assert event.lease is not None and event.outcome is not None
                self.leases[event.lease].append(event.outcome)
                assert len(self.leases[event.lease]) == 1, "a lease ended twice"

    def end(self, name: str, finish: FinishReason) -> None:
        prompt, count = self.prompts.pop(name)
        expected = expected_output(prompt, count)
        got = self.outputs[name]
        if finish is FinishReason.ABORTED:
            assert name in self.aborted
            assert expected is None or got == expected[: len(got)]
            return
        assert got == expected
        self.finished += 1
        self.chains = [*self.chains[-9:], (f"p{self.rng.randrange(6)}", prompt + tuple(got))]


@pytest.mark.parametrize("seed", range(8))
def test_random_traffic_keeps_every_invariant(seed: int) -> None:
    traffic = Traffic(seed)
    for _ in range(STEPS):
        for _ in range(traffic.rng.randrange(3)):
            traffic.act()
        traffic.step()
    drained = 0
    while traffic.engine.has_work:
        traffic.step()
        drained += 1
        assert drained < 20_000, "the engine does not come to an end"
    assert not traffic.prompts, "a request was lost"
    assert traffic.finished > 50
    traffic.clock.advance(1_000.0)
    traffic.step()
    assert all(len(outcomes) == 1 for outcomes in traffic.leases.values()), "a lease has no outcome"
    pool = traffic.engine._cache.device.pool
    assert (pool.active, pool.leased) == (0, 0)
    assert pool.free + pool.cached == pool.total
