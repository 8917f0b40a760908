"""Random traffic for the engine without a model: programs that share prefixes, fork, continue, lease and change keys.

Every invariant is checked after every step, and every output against what an engine without any cache would say.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from engine.clock import ManualClock
from engine.config import BLOCK_TOKENS
from engine.protocol import (
    EngineError,
    EngineEvent,
    EngineEventKind,
    FinishReason,
    GenerateRequest,
    Lease,
    LeaseOutcome,
    QueueFull,
    SamplingParams,
    Tier,
)
from engine.sequence import State
from tests.engine.fakes import POISON, VOCAB, expected_output, fake_engine, logprob_of

_SEED_STRIDE = 0x9E3779B97F4A7C15


@dataclass(slots=True)
class Asked:
    """A request under way: what was asked, how many tokens it may have, what came of each output."""

    request: GenerateRequest
    tokens: int
    outputs: list[list[int]]
    ended: int = 0

    def expected(self, index: int) -> list[int] | None:
        seed = self.request.sampling.seed + index * _SEED_STRIDE
        return expected_output(self.request.prompt_ids, self.tokens, seed)


@dataclass(slots=True)
class Tally:
    """What a run has seen: a fuzz that never swaps proves nothing about swapping."""

    steps: int = 0
    finished: int = 0
    preempted: int = 0
    recomputed: int = 0
    copied: int = 0
    forked: int = 0
    continued: int = 0
    drafted: int = 0
    leases: dict[str, int] = field(default_factory=dict)


class Traffic:
    """One engine of random sizes and the random programs that use it."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.blocks = rng.choice((6, 12, 24, 48))
        self.clock = ManualClock()
        self.engine, self.runner = fake_engine(
            self.clock,
            self.blocks,
            context_tokens=rng.choice((96, 160)),
            token_budget=rng.choice((24, 40, 64, 200)),
            max_running=rng.choice((1, 3, 8)),
            host_blocks=rng.choice((0, 5, 20, 60)),
            queue_limit=12,
            lease_share=rng.choice((0.0, 0.4, 1.0)),
            max_lease_ttl_s=50.0,
        )
        self.runner.s_per_token = 0.001
        self.runner.copy_s_per_block = rng.choice((0.0, 0.001, 0.008, 0.1))
        self.hasty = rng.random() < 0.6
        """Whether outputs are said to be short, so that too much is admitted."""
        # The same paragraphs in another order are another prefix, though their blocks hold the same tokens.
        paragraphs = [[rng.randrange(1, VOCAB) for _ in range(BLOCK_TOKENS)] for _ in range(3)]
        self.prefixes = [
            [token for paragraph in rng.choices(paragraphs, k=rng.randrange(5)) for token in paragraph]
            + [rng.randrange(1, VOCAB) for _ in range(rng.randrange(1, 10))]
            for _ in range(6)
        ]
        self.live: dict[str, Asked] = {}
        self.chains: list[tuple[str, str, str, tuple[int, ...]]] = []
        self.leased: set[str] = set()
        self.aborted: set[str] = set()
        self.tally = Tally()
        self.number = 0

    # what programs do

    def submit(self) -> None:
        rng = self.rng
        program, prompt = f"p{rng.randrange(6)}", list(rng.choice(self.prefixes))
        salt, continues = rng.choice(("", "", "tenant")), ""
        if self.chains and rng.random() < 0.5:
            name, program, salt, chain = rng.choice(self.chains)
            prompt, continues = list(chain), name if rng.random() < 0.7 else ""
        prompt = prompt[: rng.randrange(1, len(prompt) + 1)] if rng.random() < 0.1 else prompt
        prompt += [rng.randrange(1, VOCAB) for _ in range(rng.randrange(0, 20))]
        if rng.random() < 0.03:
            prompt[rng.randrange(len(prompt))] = POISON
        self.number += 1
        tokens = rng.randrange(1, 60)
        n = rng.choice((1, 1, 1, 1, 1, 2, 4))
        request = GenerateRequest(
            f"r{self.number}",
            program,
            prompt_ids=tuple(prompt),
            sampling=SamplingParams(max_tokens=tokens, seed=rng.randrange(3)),
            key=(float(rng.randrange(4)), float(rng.randrange(2))),
            salt=salt,
            expected_tokens=1 if self.hasty else rng.choice((0, tokens)),
            continues=continues,
            hold_s=rng.choice((0.0, 0.0, 5.0)),
            n=n,
            best_of=n + 2 if rng.random() < 0.1 else 0,
        )
        room = self.engine.model.context_tokens - len(prompt)
        try:
            self.engine.submit(request)
        except QueueFull:
            return
        except EngineError:
            assert room < 1
            return
        self.tally.continued += bool(continues)
        self.tally.forked += n > 1
        self.live[request.id] = Asked(request, min(tokens, room), [[] for _ in range(n)])

    def lease(self) -> None:
        rng, engine = self.rng, self.engine
        if self.leased and rng.random() < 0.4:
            name = rng.choice(sorted(self.leased))
            if rng.random() < 0.5:
                engine.extend(name, rng.uniform(0.1, 30.0))
                return
            grant = engine.retain(Lease(name, "p0", (), rng.uniform(0.1, 30.0), rank=float(rng.randrange(5))))
            assert grant.bytes or grant.tier is None
            return
        if not self.chains:
            return
        request, program, salt, chain = rng.choice(self.chains)
        ids, request = (chain, "") if rng.random() < 0.4 else ((), request)
        tier = rng.choice((Tier.DEVICE, Tier.DEVICE, Tier.HOST))
        self.number += 1
        wanted = Lease(
            f"l{self.number}",
            program,
            ids,
            rng.uniform(0.1, 30.0),
            salt,
            tier,
            float(rng.randrange(5)),
            request,
            rng.choice((0, 0, 20, 64)),
        )
        grant = engine.retain(wanted)
        assert grant.bytes % BLOCK_TOKENS == 0 and (grant.bytes == 0 or grant.tier is tier)

    def act(self) -> None:
        rng, engine = self.rng, self.engine
        draw = rng.random()
        leases = sorted(self.leased) or [""]
        if draw < 0.35:
            self.submit()
        elif draw < 0.40 and self.live:
            name = rng.choice(list(self.live))
            self.aborted.add(name)
            engine.abort(name)
        elif draw < 0.50:
            engine.reprioritize(f"p{rng.randrange(6)}", (float(rng.randrange(4)), rng.random()))
        elif draw < 0.60:
            self.lease()
        elif draw < 0.63:
            engine.release(rng.choice(leases), rng.choice(list(LeaseOutcome)))
        elif draw < 0.67:
            engine.demote(rng.choice(leases))
        elif draw < 0.71:
            engine.prefetch(rng.choice(leases), rng.uniform(0.0, 1.0))
        elif draw < 0.75:
            self.clock.advance(rng.uniform(0.0, 5.0))
        elif draw < 0.76:
            engine.limit_running(rng.randrange(1, 9))
        elif draw < 0.765 and engine.has_work:
            self.runner.crash = RuntimeError("device lost")
        elif draw < 0.80:
            self.draft()

    def draft(self) -> None:
        """Guess what some decoding sequences will say next, more or less well."""
        for sequence in self.engine._scheduler.running:
            if sequence.decoding and self.rng.random() < 0.5:
                truth = expected_output(sequence.tokens, self.rng.randrange(1, 6), sequence.sampling.seed) or [1]
                if self.rng.random() < 0.5:
                    truth[self.rng.randrange(len(truth))] = 1
                self.engine._scheduler.draft(sequence, tuple(truth))
                self.tally.drafted += 1

    # what comes of it

    def step(self) -> None:
        before, crashing = self.runner.steps, self.runner.crash is not None
        worked = self.engine._scheduler.has_work
        for name, item in self.engine.step():
            asked = self.live.get(name)
            assert asked is not None, f"{name} was told something after its end"
            if isinstance(item, EngineError):
                assert crashing or POISON in asked.request.prompt_ids, item
                del self.live[name]
                continue
            asked.outputs[item.index] += item.token_ids
            if item.usage is not None:
                self.tally.preempted += item.usage.preemptions
                self.tally.recomputed += item.usage.recomputed_tokens
            if item.finish is not None:
                self.end(asked, item.index, item.finish)
        assert crashing or self.runner.steps == before + worked, "there was work and the step did none"
        self.tally.steps += 1
        self.engine.check()
        for event in self.engine.drain_events():
            self.hear(event)

    def hear(self, event: EngineEvent) -> None:
        if event.kind is EngineEventKind.LEASED:
            assert event.lease is not None and event.lease not in self.leased, "a lease was granted twice"
            self.leased.add(event.lease)
        elif event.kind is EngineEventKind.LEASE_ENDED:
            assert event.lease in self.leased and event.outcome is not None, "a lease ended twice"
            self.leased.remove(event.lease)
            self.tally.leases[event.outcome] = self.tally.leases.get(event.outcome, 0) + 1

    def end(self, asked: Asked, index: int, finish: FinishReason) -> None:
        request, got = asked.request, asked.outputs[index]
        asked.ended += 1
        if asked.ended == request.n:
            del self.live[request.id]
        if finish is FinishReason.ABORTED:
            assert request.id in self.aborted
        elif request.best_of and request.id not in self.aborted:
            outputs = [asked.expected(one) for one in range(request.best_of)]
            assert None not in outputs
            ranked = sorted(outputs, key=lambda one: -sum(map(logprob_of, one or ())) / len(one or "x"))
            assert got == ranked[index], "not the best were told"
        elif not request.best_of:
            assert got == asked.expected(index), "cached and uncached outputs differ"
        self.tally.finished += 1
        chain = (request.id, f"p{self.rng.randrange(6)}", request.salt, request.prompt_ids + tuple(got))
        self.chains = [*self.chains[-9:], chain]

    def run(self, steps: int) -> Tally:
        """Random traffic for `steps` steps, then until nothing is left: no lease without an outcome, no block held."""
        for _ in range(steps):
            for _ in range(self.rng.randrange(3)):
                self.act()
            self.step()
            for sequence in self.engine._scheduler.running:
                assert sequence.state is State.RUNNING
        self.engine.limit_running(8)
        drained = 0
        while self.engine.has_work:
            self.step()
            drained += 1
            assert drained < 20_000, "the engine does not come to an end"
        assert not self.live, "a request was lost"
        self.clock.advance(1_000.0)
        self.step()
        assert not self.leased, "a lease has no outcome"
        for store in (self.engine._cache.device, self.engine._cache.host):
            assert (store.pool.active, store.pool.leased) == (0, 0)
            assert store.pool.free + store.pool.cached == store.pool.total
        self.tally.copied = self.runner.copied
        return self.tally
