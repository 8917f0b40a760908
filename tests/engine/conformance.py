"""What every engine must do, as functions over a running engine: the same suite for local, simulated and remote ones.

A test module parametrizes over `CHECKS` and hands each an engine whose model answers chat messages. What an engine
does not claim in its capabilities is not asked of it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from itertools import count

import pytest

from engine.protocol import (
    ChatMessage,
    Engine,
    EngineEvent,
    EngineEventKind,
    FinishReason,
    GenerateRequest,
    Grammar,
    GrammarKind,
    InvalidGrammar,
    InvalidRequest,
    Lease,
    LeaseOutcome,
    PromptTooLong,
    RetentionSupport,
    SamplingParams,
    TokenChunk,
)

Check = Callable[[Engine], Awaitable[None]]
_numbers = count()


def request(content: str = "select name from city", **changes: object) -> GenerateRequest:
    """A request with an id of its own."""
    base = GenerateRequest(
        id=f"conformance-{next(_numbers)}",
        program="program",
        messages=(ChatMessage("user", content),),
        sampling=SamplingParams(max_tokens=12, ignore_eos=True),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


async def read(engine: Engine, asked: GenerateRequest) -> tuple[str, tuple[int, ...], TokenChunk]:
    """The whole text, all ids and the last chunk of a request."""
    text, ids, last = "", (), None
    async for chunk in engine.generate(asked):
        assert last is None or last.finish is None, "a chunk came after the last"
        text, ids, last = text + chunk.text, ids + chunk.token_ids, chunk
    assert last is not None and last.finish is not None, "the stream ended without a last chunk"
    return text, ids, last


async def streams_and_counts(engine: Engine) -> None:
    _, ids, last = await read(engine, request())
    assert last.finish is FinishReason.LENGTH
    assert last.usage is not None
    assert last.usage.output_tokens == len(ids) == 12
    assert last.usage.prompt_tokens > 0
    assert min(last.usage.queue_s, last.usage.prefill_s, last.usage.decode_s) >= 0


async def names_itself(engine: Engine) -> None:
    assert engine.name and engine.model.name
    assert engine.model.context_tokens > 0 and engine.model.vocab_size > 0
    leases = engine.capabilities.retention in (RetentionSupport.HARD, RetentionSupport.HOST)
    assert not leases or engine.capabilities.max_lease_ttl_s > 0


async def greedy_repeats_itself(engine: Engine) -> None:
    first = await read(engine, request())
    second = await read(engine, request())
    assert first[:2] == second[:2]


async def concurrent_requests_do_not_mix(engine: Engine) -> None:
    alone = [await read(engine, request(f"city {index}")) for index in range(5)]
    together = await asyncio.gather(*(read(engine, request(f"city {index}")) for index in range(5)))
    assert [one[:2] for one in together] == [one[:2] for one in alone]
    assert len({one[1] for one in alone}) > 1, "the model says the same to everything"


async def seeds_decide_samples(engine: Engine) -> None:
    def ask(seed: int) -> GenerateRequest:
        return request(sampling=SamplingParams(max_tokens=12, temperature=1.0, seed=seed, ignore_eos=True))

    first = await asyncio.gather(*(read(engine, ask(seed)) for seed in range(4)))
    again = [await read(engine, ask(seed)) for seed in range(4)]
    assert [one[1] for one in first] == [one[1] for one in again]
    assert len({one[1] for one in first}) > 1


async def stop_strings_end_the_text(engine: Engine) -> None:
    text, _, _ = await read(engine, request())
    stop = text[len(text) // 2 :][:3]
    cut, _, last = await read(engine, request(sampling=SamplingParams(max_tokens=12, stop=(stop,), ignore_eos=True)))
    assert last.finish is FinishReason.STOP
    assert cut == text[: text.index(stop)]


async def closing_the_iterator_aborts(engine: Engine) -> None:
    long = request(sampling=SamplingParams(max_tokens=100_000, ignore_eos=True))
    async with aclosing(engine.generate(long)) as chunks:  # type: ignore[type-var]
        async for _ in chunks:
            break
    await read(engine, replace(request(), id=long.id))


async def abort_ends_the_stream(engine: Engine) -> None:
    long = request(sampling=SamplingParams(max_tokens=100_000, ignore_eos=True))
    chunks = []
    async for chunk in engine.generate(long):
        chunks.append(chunk)
        if len(chunks) == 1:
            await engine.abort(long.id)
    assert chunks[-1].finish in (FinishReason.ABORTED, FinishReason.LENGTH)
    assert chunks[-1].usage is not None


async def unknown_names_are_no_error(engine: Engine) -> None:
    await engine.abort("nobody")
    await engine.reprioritize("nobody", (1.0,))
    await engine.release("nobody", LeaseOutcome.CANCELLED)
    await engine.prefetch("nobody", 1.0)
    for grant in (await engine.extend("nobody", 1.0), await engine.demote("nobody")):
        assert (grant.bytes, grant.tier) == (0, None)


async def bad_requests_are_refused_by_name(engine: Engine) -> None:
    limit = engine.model.context_tokens
    refused = [
        (PromptTooLong, request(messages=(), prompt_ids=(1,) * (limit + 1))),
        (InvalidRequest, request(messages=())),
        (InvalidRequest, request(messages=(), prompt_ids=(engine.model.vocab_size,))),
        (InvalidRequest, request(sampling=SamplingParams(max_tokens=0))),
        (InvalidRequest, request(sampling=SamplingParams(temperature=-1.0))),
        (InvalidRequest, request(sampling=SamplingParams(top_p=0.0))),
    ]
    good = asyncio.ensure_future(read(engine, request()))
    for error, asked in refused:
        with pytest.raises(error) as raised:
            await read(engine, asked)
        assert str(raised.value)
    assert (await good)[2].finish is FinishReason.LENGTH, "a bad request harmed a good one"


async def output_beyond_the_context_is_cut(engine: Engine) -> None:
    limit = engine.model.context_tokens
    prompt = tuple(5 + index % 7 for index in range(limit - 3))
    asked = request(messages=(), prompt_ids=prompt, sampling=SamplingParams(max_tokens=50, ignore_eos=True))
    _, ids, last = await read(engine, asked)
    assert last.finish is FinishReason.LENGTH and len(ids) == 3


async def grammars_hold(engine: Engine) -> None:
    if not engine.capabilities.grammar:
        return
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}, "kind": {"enum": ["city", "country"]}},
        "required": ["ok", "kind"],
        "additionalProperties": False,
    }
    sampling = SamplingParams(max_tokens=60, temperature=1.5, seed=3)
    text, _, last = await read(
        engine, request(sampling=sampling, grammar=Grammar(GrammarKind.JSON_SCHEMA, json.dumps(schema)))
    )
    assert last.finish is FinishReason.STOP
    value = json.loads(text)
    assert value["kind"] in ("city", "country") and isinstance(value["ok"], bool)
    with pytest.raises(InvalidGrammar):
        await read(engine, request(grammar=Grammar(GrammarKind.LARK, "start: (")))


async def leases_hold_what_they_grant(engine: Engine) -> None:
    if engine.capabilities.retention is not RetentionSupport.HARD:
        return
    heard: list[EngineEvent] = []

    async def listen() -> None:
        async for event in engine.events():
            heard.append(event)
            if event.kind is EngineEventKind.LEASE_ENDED:
                return

    listening = asyncio.ensure_future(listen())
    await asyncio.sleep(0)  # let it subscribe
    prompt = tuple(5 + (index * index) % 97 for index in range(50))
    _, ids, _ = await read(engine, request(messages=(), prompt_ids=prompt))
    grant = await engine.retain(Lease("lease", "program", prompt + ids, ttl_s=30.0))
    assert grant.bytes > 0 and grant.tier is not None and 0 < grant.expires_in_s <= 30.0
    assert (await engine.extend("lease", 10.0)).bytes == grant.bytes
    nothing = await engine.retain(Lease("nothing", "program", tuple(range(7, 60)), ttl_s=30.0))
    assert (nothing.bytes, nothing.tier) == (0, None)
    await engine.release("lease", LeaseOutcome.HANDOFF)
    await engine.release("lease", LeaseOutcome.FINAL)
    await listening
    assert heard[-1].outcome is LeaseOutcome.HANDOFF and heard[-1].lease == "lease"
    assert any(event.kind is EngineEventKind.STORED and event.program == "program" for event in heard)


async def estimates_know_the_cache(engine: Engine) -> None:
    if not engine.capabilities.estimate:
        return
    prompt = tuple(9 + (index * 7) % 101 for index in range(49))
    before = await engine.estimate(prompt)
    await read(engine, request(messages=(), prompt_ids=prompt))
    after = await engine.estimate(prompt)
    assert sum(after.cached_tokens.values()) > sum(before.cached_tokens.values())
    assert sum((await engine.estimate(prompt, "another tenant")).cached_tokens.values()) == 0
    assert after.prefill_s >= 0 and after.queue_s >= 0


CHECKS: tuple[Check, ...] = (
    streams_and_counts,
    names_itself,
    greedy_repeats_itself,
    concurrent_requests_do_not_mix,
    seeds_decide_samples,
    stop_strings_end_the_text,
    closing_the_iterator_aborts,
    abort_ends_the_stream,
    unknown_names_are_no_error,
    bad_requests_are_refused_by_name,
    output_beyond_the_context_is_cut,
    grammars_hold,
    leases_hold_what_they_grant,
    estimates_know_the_cache,
)
