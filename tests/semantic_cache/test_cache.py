from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest

from semantic_cache import (
    Answer,
    Bypass,
    CacheClosed,
    CacheSettings,
    Category,
    Hit,
    InvalidRequest,
    Limits,
    Miss,
    NotStored,
    Stored,
    StoreError,
    Tier,
    UnknownEntry,
)
from semantic_cache.clock import ManualClock
from semantic_cache.policy import LEXICAL
from tenuto.wire import Sampling
from tests.semantic_cache.doubles import ChosenEmbedder, ToldJudge, ask, at, hit, miss, opened, policies, put


async def test_the_same_call_is_answered_exactly(tmp_path: Path) -> None:
    cache = await opened(tmp_path)
    entry = await put(cache, ask("What?"), {"rows": [1, None, "é"]}, seconds=1.5, prompt_tokens=7, output_tokens=3)
    found = await hit(cache, ask("  What?\r\n"))
    assert (found.tier, found.entry, found.value) == (Tier.EXACT, entry, {"rows": [1, None, "é"]})
    assert (found.saved_s, found.saved_tokens, found.similarity) == (1.5, 10, 1.0)
    await miss(cache, ask("what?"))
    await cache.close()


async def test_a_near_question_is_answered_and_a_far_one_is_not(tmp_path: Path) -> None:
    embedder, clock = ChosenEmbedder(base=at(1.0), near=at(0.95), far=at(0.85), farther=at(0.4)), ManualClock()
    cache = await opened(tmp_path, embedder=embedder, clock=clock)
    entry = await put(cache, ask("base"), "A", seconds=2.0)
    clock.advance(30)
    found = await hit(cache, ask("near"))
    assert (found.tier, found.entry, found.value, found.age_s) == (Tier.SEMANTIC, entry, "A", 30.0)
    assert found.similarity == pytest.approx(0.95, abs=2e-3)
    assert found.cached_question == "base"
    assert (await miss(cache, ask("far"))).reason == "grey"
    assert (await miss(cache, ask("farther"))).reason == "nothing_near"
    await cache.close()


async def test_no_answer_crosses_a_partition(tmp_path: Path) -> None:
    cache = await opened(tmp_path, embedder=ChosenEmbedder(a=at(1.0), b=at(0.999)))
    await put(cache, ask("a"))
    for change in ({"tenant": "u"}, {"model": "n"}, {"variables": {"x": 1}}, {"sampling": Sampling(max_tokens=9)}):
        assert (await miss(cache, dataclasses.replace(ask("b"), **change))).reason == "nothing_near"
        assert (await miss(cache, dataclasses.replace(ask("a"), **change))).reason == "nothing_near"
    await hit(cache, ask("b"))
    await cache.close()


async def test_without_an_embedder_the_exact_tier_works_alone_and_says_so(tmp_path: Path) -> None:
    cache = await opened(tmp_path)
    await put(cache, ask("a"))
    await hit(cache, ask("a"))
    assert (await miss(cache, ask("b"))).reason == "no_embedder"
    assert not cache.stats().semantic
    await cache.close()


async def test_a_call_without_a_marked_question_has_the_exact_tier(tmp_path: Path) -> None:
    embedder = ChosenEmbedder()
    cache = await opened(tmp_path, embedder=embedder)
    await put(cache, ask(None))
    assert (await hit(cache, ask(None))).tier is Tier.EXACT
    assert embedder.calls == []
    await cache.close()


async def test_texts_too_long_and_a_broken_embedder_leave_the_exact_tier(tmp_path: Path) -> None:
    embedder = ChosenEmbedder()
    embedder.vectors["long"] = None
    cache = await opened(tmp_path, embedder=embedder)
    await put(cache, ask("long"))
    await hit(cache, ask("long"))
    embedder.broken = True
    assert (await miss(cache, ask("x"))).reason == "not_embedded"
    assert (await miss(cache, ask("y" * 20_001))).reason == "not_embedded"
    assert cache.stats().embedder_errors == 1
    await hit(cache, ask("long"))
    await cache.close()


@pytest.mark.parametrize(
    "change", [{"effects": True}, {"pending_tools": True}, {"sampling": Sampling(temperature=1.0)}, {"mode": "off"}]
)
async def test_calls_the_cache_has_no_part_in_are_neither_answered_nor_kept(
    tmp_path: Path, change: dict[str, object]
) -> None:
    cache = await opened(tmp_path)
    await put(cache, ask("a"))
    outcome = await cache.lookup(dataclasses.replace(ask("a"), **change))
    assert isinstance(outcome, Bypass)
    await cache.close()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer("x", finish="error"), "finish_error"),
        (Answer("x", finish="length"), "finish_length"),
        (Answer("x", finish="cancelled"), "finish_cancelled"),
        (Answer("x", function_calls=True), "function_calls"),
        (Answer("x" * 2000), "too_large"),
    ],
)
async def test_answers_that_may_not_be_replayed_are_not_kept(tmp_path: Path, answer: Answer, reason: str) -> None:
    cache = await opened(tmp_path, settings=CacheSettings(limits=Limits(answer_bytes=1000)))
    outcome = await cache.lookup(ask("a"))
    assert isinstance(outcome, Miss)
    assert await cache.store(outcome.ticket, answer) == NotStored(reason)
    await miss(cache, ask("a"))
    await cache.close()


async def test_keep_false_reads_but_does_not_write(tmp_path: Path) -> None:
    cache = await opened(tmp_path)
    outcome = await cache.lookup(ask("a", keep=False))
    assert isinstance(outcome, Miss)
    assert await cache.store(outcome.ticket, Answer("x")) == NotStored("not_asked")
    await put(cache, ask("a"))
    await hit(cache, ask("a", keep=False))
    await cache.close()


async def test_answers_grow_old(tmp_path: Path) -> None:
    clock = ManualClock()
    cache = await opened(tmp_path, clock=clock, embedder=ChosenEmbedder(a=at(1.0), b=at(0.99)))
    first = await put(cache, ask("a"), "old")
    clock.advance(3599)
    await hit(cache, ask("a"))
    await hit(cache, ask("b"))
    await miss(cache, ask("a", max_age_s=60.0))
    clock.advance(2)
    assert (await miss(cache, ask("b"))).reason == "refused"
    second = await put(cache, ask("a"), "new")
    assert second != first
    assert (await hit(cache, ask("b"))).value == "new"
    await cache.close()


async def test_an_answer_too_old_for_its_own_category_is_replaced_by_one_of_a_longer_lived(tmp_path: Path) -> None:
    clock, brief = ManualClock(), Category("brief", similarity=0.97, ttl_s=60, quota=0.1, error_target=0.01)
    cache = await opened(tmp_path, clock=clock, categories=policies(brief))
    await put(cache, ask("a", category="brief"), "old")
    clock.advance(61)
    await put(cache, ask("a"), "new")
    clock.advance(3599)
    assert (await hit(cache, ask("a"))).value == "new"
    await cache.close()


async def test_a_caller_that_wants_it_fresher_replaces_the_answer(tmp_path: Path) -> None:
    clock = ManualClock()
    cache = await opened(tmp_path, clock=clock)
    await put(cache, ask("a"), "old")
    clock.advance(100)
    await put(cache, ask("a", max_age_s=60.0), "new")
    assert (await hit(cache, ask("a"))).value == "new"
    assert cache.stats().entries == 1
    await cache.close()


async def test_guards_stop_a_near_question(tmp_path: Path) -> None:
    guarded = Category("guarded", similarity=0.9, ttl_s=3600, quota=0.1, error_target=0.05, guards=LEXICAL)
    embedder = ChosenEmbedder(**{"over 5 rows": at(1.0), "over 7 rows": at(0.99), "above 5 rows": at(0.98)})
    cache = await opened(tmp_path, embedder=embedder, categories=policies(guarded))
    await put(cache, ask("over 5 rows", category="guarded"))
    stopped = await miss(cache, ask("over 7 rows", category="guarded"))
    assert (stopped.reason, stopped.detail) == ("refused", "numbers: 7 against 5")
    await hit(cache, ask("above 5 rows", category="guarded"))
    await cache.close()


async def test_the_stricter_of_two_categories_decides(tmp_path: Path) -> None:
    strict = Category("strict", similarity=0.97, ttl_s=60, quota=0.1, error_target=0.01)
    clock = ManualClock()
    embedder = ChosenEmbedder(a=at(1.0), b=at(0.95), c=at(0.98))
    cache = await opened(tmp_path, embedder=embedder, categories=policies(strict), clock=clock)
    await put(cache, ask("a", category="strict"))
    await miss(cache, ask("b"))
    await hit(cache, ask("c"))
    clock.advance(61)
    await miss(cache, ask("c"))
    await cache.close()


async def test_an_unknown_category_is_treated_strictly_not_refused(tmp_path: Path) -> None:
    cache = await opened(tmp_path, embedder=ChosenEmbedder(a=at(1.0)))
    await put(cache, ask("a", category="plian"))
    found = await hit(cache, ask("a", category="plian"))
    assert found.category == "unsure"
    await cache.close()


async def test_equal_misses_go_to_the_engine_once(tmp_path: Path) -> None:
    cache = await opened(tmp_path)
    leader = await cache.lookup(ask("a"))
    assert isinstance(leader, Miss)
    followers = [asyncio.create_task(cache.lookup(ask("a"))) for _ in range(20)]
    await asyncio.sleep(0)
    assert isinstance(await cache.lookup(ask("b")), Miss)
    assert not any(f.done() for f in followers)
    await cache.store(leader.ticket, Answer("x", seconds=3.0, output_tokens=5))
    landed = await asyncio.gather(*followers)
    assert all(isinstance(h, Hit) and h.value == "x" and h.saved_s == 3.0 for h in landed)
    assert {h.tier for h in landed if isinstance(h, Hit)} <= {Tier.FLIGHT, Tier.EXACT}
    await cache.close()


async def test_when_the_leader_fails_the_next_one_goes(tmp_path: Path) -> None:
    cache = await opened(tmp_path)
    leader = await cache.lookup(ask("a"))
    assert isinstance(leader, Miss)
    followers = [asyncio.create_task(cache.lookup(ask("a"))) for _ in range(3)]
    await asyncio.sleep(0)
    cache.abandon(leader.ticket)
    done, waiting = await asyncio.wait(followers, return_when=asyncio.FIRST_COMPLETED)
    assert (len(done), len(waiting)) == (1, 2)
    second = done.pop().result()
    assert isinstance(second, Miss)
    await cache.store(second.ticket, Answer("x"))
    assert all(isinstance(h, Hit) for h in await asyncio.gather(*waiting))
    await cache.close()


async def test_a_partial_answer_is_nobody_elses(tmp_path: Path) -> None:
    cache = await opened(tmp_path)
    leader = await cache.lookup(ask("a"))
    assert isinstance(leader, Miss)
    follower = asyncio.create_task(cache.lookup(ask("a")))
    await asyncio.sleep(0)
    await cache.store(leader.ticket, Answer("x", finish="length"))
    assert isinstance(await follower, Miss)
    await cache.close()


async def test_a_cancelled_lookup_frees_those_who_wait(tmp_path: Path) -> None:
    class Slow(ChosenEmbedder):
        async def embed(self, text: str) -> None:
            await asyncio.Event().wait()

    cache = await opened(tmp_path, embedder=Slow())
    leader = asyncio.create_task(cache.lookup(ask("a")))
    await asyncio.sleep(0)
    follower = asyncio.create_task(cache.lookup(ask("a", mode="exact")))
    await asyncio.sleep(0)
    leader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader
    assert isinstance(await follower, Miss)
    await cache.close()


async def test_waiting_for_another_ends_by_the_clock(tmp_path: Path) -> None:
    cache = await opened(tmp_path, settings=CacheSettings(flight_wait_s=0.001))
    assert isinstance(await cache.lookup(ask("a")), Miss)
    assert isinstance(await cache.lookup(ask("a")), Miss)
    await cache.close()


async def test_a_ticket_ends_once(tmp_path: Path) -> None:
    cache = await opened(tmp_path)
    outcome = await cache.lookup(ask("a"))
    assert isinstance(outcome, Miss)
    await cache.store(outcome.ticket, Answer("x"))
    with pytest.raises(InvalidRequest, match="before"):
        await cache.store(outcome.ticket, Answer("y"))
    assert (await hit(cache, ask("a"))).value == "x"
    await cache.close()


async def test_a_reported_hit_is_not_served_again_and_counts(tmp_path: Path) -> None:
    embedder = ChosenEmbedder(a=at(1.0), b=at(0.95))
    cache = await opened(tmp_path, embedder=embedder)
    entry = await put(cache, ask("a"))
    given = await hit(cache, ask("b"))
    with pytest.raises(UnknownEntry):
        await cache.report_bad(tenant="other", principal="x", hit=given.number)
    with pytest.raises(UnknownEntry):
        await cache.report_bad(tenant="other", principal="x", entry=entry)
    assert await cache.report_bad(tenant="t", principal="x", hit=given.number, reason="wrong person") == entry
    await miss(cache, ask("a"))
    await miss(cache, ask("b"))
    row = next(c for c in cache.stats().categories if c.category == "plain")
    assert (row.quarantined, row.false_hits, row.judged_hits, row.labels) == (1, 1, 1, 1.0)
    with pytest.raises(UnknownEntry):
        await cache.report_bad(tenant="t", principal="x", entry=entry)
    await cache.close()
    again = await opened(tmp_path, embedder=embedder)
    await miss(again, ask("a"))
    labels = next(c for c in again.stats().categories if c.category == "plain").labels
    assert labels == pytest.approx(1.0, abs=1e-3)
    await again.close()


async def test_nobody_empties_the_cache_by_reporting(tmp_path: Path) -> None:
    cache = await opened(tmp_path, settings=CacheSettings(reports_per_minute=2))
    entries = [await put(cache, ask(f"q{i}")) for i in range(3)]
    for entry in entries[:2]:
        await cache.report_bad(tenant="t", principal="x", entry=entry)
    with pytest.raises(InvalidRequest, match="reports more"):
        await cache.report_bad(tenant="t", principal="x", entry=entries[2])
    await cache.close()


async def test_a_near_miss_is_verified_and_promoted_while_the_engine_works(tmp_path: Path) -> None:
    judge = ToldJudge(lambda case: True)
    cache = await opened(tmp_path, embedder=ChosenEmbedder(a=at(1.0), b=at(0.87), c=at(0.5)), judge=judge)
    entry = await put(cache, ask("a"), "A")
    first = await cache.lookup(ask("b"))
    assert isinstance(first, Miss)
    assert first.reason == "grey"
    await cache.settle()
    cache.abandon(first.ticket)
    promoted = await hit(cache, ask("b"))
    assert (promoted.tier, promoted.value) == (Tier.EXACT, "A")
    assert promoted.entry != entry
    await cache.report_bad(tenant="t", principal="x", entry=entry)  # the answer goes, and what points at it
    await miss(cache, ask("b"))
    await cache.close()


async def test_a_near_miss_that_differs_is_learned_from_not_promoted(tmp_path: Path) -> None:
    judge = ToldJudge(lambda case: False)
    cache = await opened(tmp_path, embedder=ChosenEmbedder(a=at(1.0), b=at(0.87)), judge=judge)
    await put(cache, ask("a"), "A")
    await put(cache, ask("b"), "B")
    assert (await hit(cache, ask("b"))).value == "B"
    assert next(c for c in cache.stats().categories if c.category == "plain").labels == 1.0
    await cache.close()


async def test_every_miss_with_a_neighbour_teaches(tmp_path: Path) -> None:
    cache = await opened(tmp_path, embedder=ChosenEmbedder(a=at(1.0), b=at(0.75)))
    await put(cache, ask("a"), "A")
    await put(cache, ask("b"), "a")
    assert next(c for c in cache.stats().categories if c.category == "plain").labels == 1.0
    await cache.close()


async def test_a_shadow_call_tells_whether_a_hit_was_right(tmp_path: Path) -> None:
    shadowed = Category(
        "shadowed", similarity=0.9, ttl_s=60, quota=0.1, error_target=0.05, guards=frozenset(), shadow_rate=1.0
    )
    cache = await opened(tmp_path, embedder=ChosenEmbedder(a=at(1.0), b=at(0.95)), categories=policies(shadowed))
    await put(cache, ask("a", category="shadowed"), "A")
    for fresh in ("A", "B"):
        given = await hit(cache, ask("b", category="shadowed"))
        assert given.shadow is not None
        cache.shadow(given.shadow, Answer(fresh))
        cache.shadow(given.shadow, Answer(fresh, finish="error"))
        await cache.settle()
    row = next(c for c in cache.stats().categories if c.category == "shadowed")
    assert (row.judged_hits, row.false_hits) == (2, 1)
    assert row.false_share[0] > 0
    await cache.close()


async def test_near_misses_may_be_examples(tmp_path: Path) -> None:
    cache = await opened(tmp_path, embedder=ChosenEmbedder(a=at(1.0), b=at(0.85)))
    await put(cache, ask("a"), "A")
    assert (await miss(cache, ask("b"))).examples == ()
    (example,) = (await miss(cache, ask("b", examples=2))).examples
    assert (example.question, example.answer) == ("a", "A")
    await cache.close()


async def test_a_closed_cache_says_so(tmp_path: Path) -> None:
    cache = await opened(tmp_path)
    waiting = await cache.lookup(ask("a"))
    follower = asyncio.create_task(cache.lookup(ask("a")))
    await asyncio.sleep(0)
    await cache.close()
    await cache.close()
    assert isinstance(waiting, Miss)
    for attempt in (cache.lookup(ask("a")), cache.store(waiting.ticket, Answer("x")), cache.bump("t"), follower):
        with pytest.raises(CacheClosed):
            await attempt


async def test_another_programs_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "cache.db").write_bytes(b"not a database, but somebody's notes" * 50)
    with pytest.raises(StoreError):
        await opened(tmp_path)
    assert (tmp_path / "cache.db").read_bytes().startswith(b"not a database")


async def test_entries_survive_a_restart_with_their_vectors(tmp_path: Path) -> None:
    clock = ManualClock()
    for round_ in range(3):
        embedder = ChosenEmbedder(a=at(1.0), b=at(0.95))
        cache = await opened(tmp_path, embedder=embedder, clock=clock)
        if round_ == 0:
            await put(cache, ask("a"), "A", seconds=1.0)
        assert (await hit(cache, ask("a"))).value == "A"
        assert (await hit(cache, ask("b"))).tier is Tier.SEMANTIC
        clock.advance(10)
        await cache.close()


async def test_vectors_of_another_model_are_never_compared(tmp_path: Path) -> None:
    cache = await opened(tmp_path, embedder=ChosenEmbedder(a=at(1.0)))
    await put(cache, ask("a"))
    await cache.close()
    other = ChosenEmbedder(a=at(1.0), b=at(0.99))
    other.digest = "another"
    cache = await opened(tmp_path, embedder=other)
    await hit(cache, ask("a"))
    assert (await miss(cache, ask("b"))).reason == "nothing_near"
    await cache.close()


async def test_stored_says_where(tmp_path: Path) -> None:
    cache = await opened(tmp_path, settings=CacheSettings(flight_wait_s=0.001))
    first, second = await cache.lookup(ask("a")), await cache.lookup(ask("a"))
    assert isinstance(first, Miss)
    assert isinstance(second, Miss)
    kept = await cache.store(first.ticket, Answer("x"))
    assert isinstance(kept, Stored)
    assert await cache.store(second.ticket, Answer("x")) == kept
    await cache.close()


async def test_the_right_neighbour_is_found_behind_a_crowd_that_differs_in_a_number(tmp_path: Path) -> None:
    numbered = Category("numbered", similarity=0.8, ttl_s=60.0, quota=0.1, error_target=0.05, guards=LEXICAL)
    vectors = {f"orders of {n}": at(0.999 - n / 1000) for n in range(1, 12)} | {"all orders of 11": at(1.0)}
    cache = await opened(tmp_path, embedder=ChosenEmbedder(**vectors), categories=policies(numbered))
    for n in range(1, 12):
        outcome = await cache.lookup(ask(f"orders of {n}", category="numbered"))
        assert isinstance(outcome, Miss)
        await cache.store(outcome.ticket, Answer(n))
    assert (await hit(cache, ask("all orders of 11", category="numbered"))).value == 11
    await cache.close()
