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
    Tier,
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
    text, last = "", None
    ids: tuple[int, ...] = ()
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


async def requests_that_continue_find_what_they_left(engine: Engine) -> None:
    if engine.capabilities.retention is not RetentionSupport.HARD:
        return
    first = request(messages=(), prompt_ids=tuple(11 + (index * 3) % 89 for index in range(40)))
    _, ids, _ = await read(engine, first)
    chain = first.prompt_ids + ids
    plain = await read(engine, request(messages=(), prompt_ids=(*chain, 7, 8), salt="another tenant"))
    again = await read(engine, request(messages=(), prompt_ids=(*chain, 7, 8), continues=first.id))
    assert again[1] == plain[1], "what is cached changes the output"
    assert again[2].usage is not None and again[2].usage.cached_tokens >= len(chain) - 1, "the partial block is lost"
    other = await read(engine, request(messages=(), prompt_ids=(*chain, 7, 8), continues=first.id, salt="stranger"))
    assert other[1] == plain[1] and other[2].usage is not None and other[2].usage.cached_tokens == 0
    unknown = await read(engine, request(messages=(), prompt_ids=(*chain, 7, 8), continues="never heard of"))
    assert unknown[1] == plain[1]


async def ended_requests_can_be_leased_by_name(engine: Engine) -> None:
    if engine.capabilities.retention is not RetentionSupport.HARD:
        return
    asked = request("a chain that nobody spells")
    await read(engine, asked)
    grant = await engine.retain(Lease("by name", "program", (), ttl_s=30.0, request=asked.id))
    assert grant.bytes > 0 and grant.tier is not None
    part = await engine.retain(Lease("by name", "program", (), ttl_s=20.0, request=asked.id, tokens=16, rank=2.0))
    assert 0 < part.bytes < grant.bytes and part.expires_in_s <= 20.0
    renewed = await engine.retain(Lease("by name", "program", (), ttl_s=5.0, rank=7.0))
    assert renewed.bytes == part.bytes and renewed.expires_in_s <= 5.0
    await engine.release("by name", LeaseOutcome.FINAL)
    assert (await engine.extend("by name", 1.0)).bytes == 0
    assert (await engine.retain(Lease("of nobody", "program", (), ttl_s=9.0, request="unheard"))).bytes == 0


async def what_is_held_ends_as_a_handoff(engine: Engine) -> None:
    if engine.capabilities.retention is not RetentionSupport.HARD:
        return
    heard: list[EngineEvent] = []

    async def listen() -> None:
        async for event in engine.events():
            heard.append(event)
            if event.kind is EngineEventKind.LEASE_ENDED:
                return

    listening = asyncio.ensure_future(listen())
    await asyncio.sleep(0)
    asked = request(messages=(), prompt_ids=tuple(13 + (index * 5) % 83 for index in range(45)), hold_s=60.0)
    _, ids, _ = await read(engine, asked)
    assert (await engine.extend(asked.id, 50.0)).bytes > 0, "the engine held nothing"
    await read(engine, request(messages=(), prompt_ids=asked.prompt_ids + ids, continues=asked.id))
    await listening
    assert heard[-1].lease == asked.id and heard[-1].outcome is LeaseOutcome.HANDOFF


async def several_outputs_share_a_prompt(engine: Engine) -> None:
    if not engine.capabilities.fork:
        return
    for length in (33, 48):
        prompt = tuple(17 + (index * 11) % 79 for index in range(length))
        sampling = SamplingParams(max_tokens=9, temperature=1.0, seed=4, ignore_eos=True)
        asked = request(messages=(), prompt_ids=prompt, sampling=sampling, n=3)
        outputs: dict[int, tuple[int, ...]] = {}
        cached: dict[int, int] = {}
        async for chunk in engine.generate(asked):
            assert chunk.index not in cached, "an output went on after its end"
            outputs[chunk.index] = outputs.get(chunk.index, ()) + chunk.token_ids
            if chunk.usage is not None:
                cached[chunk.index] = chunk.usage.cached_tokens
        alone = await read(engine, request(messages=(), prompt_ids=prompt, sampling=sampling))
        assert sorted(outputs) == sorted(cached) == [0, 1, 2] and all(len(out) == 9 for out in outputs.values())
        assert outputs[0] == alone[1] and len(set(outputs.values())) > 1
        assert cached[1] == cached[2] == length - 1, "an output computed the prompt again"
    for wrong in (request(n=0), request(n=2, best_of=1), request(n=100_000), request(hold_s=-1.0)):
        with pytest.raises(InvalidRequest):
            await read(engine, wrong)


async def the_best_outputs_are_told(engine: Engine) -> None:
    if not (engine.capabilities.fork and engine.capabilities.logprobs):
        return
    sampling = SamplingParams(max_tokens=6, temperature=1.0, seed=2, ignore_eos=True, logprobs=0)

    async def outputs(n: int, best_of: int) -> list[tuple[float, tuple[int, ...]]]:
        ids: dict[int, tuple[int, ...]] = {}
        scores: dict[int, float] = {}
        async for chunk in engine.generate(request("choose", sampling=sampling, n=n, best_of=best_of)):
            ids[chunk.index] = ids.get(chunk.index, ()) + chunk.token_ids
            scores[chunk.index] = scores.get(chunk.index, 0.0) + sum(one.logprob for one in chunk.logprobs)
        return [(scores[index], ids[index]) for index in sorted(ids)]

    everything = await outputs(4, 0)
    best = await outputs(2, 4)
    ranked = sorted(everything, reverse=True)[:2]
    assert [ids for _, ids in best] == [ids for _, ids in ranked]


async def the_number_of_running_sequences_can_be_capped(engine: Engine) -> None:
    with pytest.raises(InvalidRequest):
        await engine.limit_running(0)
    await engine.limit_running(1)
    together = await asyncio.gather(*(read(engine, request(f"capped {index}")) for index in range(3)))
    await engine.limit_running(1_000_000)
    assert all(len(one[1]) == 12 for one in together)


async def leases_move_between_the_tiers(engine: Engine) -> None:
    if not engine.capabilities.host_kv_tokens:
        return
    asked = request(messages=(), prompt_ids=tuple(19 + (index * 7) % 73 for index in range(50)))
    _, ids, _ = await read(engine, asked)
    held = await engine.retain(Lease("moving", "program", (), ttl_s=30.0, request=asked.id))
    moved = await engine.demote("moving")
    assert (moved.bytes, moved.tier) == (held.bytes, Tier.HOST)
    assert (await engine.demote("moving")).bytes == moved.bytes
    await engine.prefetch("moving", 5.0)
    assert (await engine.extend("moving", 9.0)).tier is Tier.DEVICE
    plain = await read(engine, request(messages=(), prompt_ids=asked.prompt_ids + ids, salt="elsewhere"))
    again = await read(engine, request(messages=(), prompt_ids=asked.prompt_ids + ids, continues=asked.id))
    assert again[1] == plain[1], "what came back from the host is not what went there"
    await engine.release("moving", LeaseOutcome.FINAL)


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
    requests_that_continue_find_what_they_left,
    ended_requests_can_be_leased_by_name,
    what_is_held_ends_as_a_handoff,
    several_outputs_share_a_prompt,
    the_best_outputs_are_told,
    the_number_of_running_sequences_can_be_capped,
    leases_move_between_the_tiers,
    estimates_know_the_cache,
)
