"""Who may read what: tenants, principals, second sighting, admission."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from semantic_cache import Answer, CacheSettings, Category, Hit, Miss, NotStored, Sharing, Stored
from semantic_cache.clock import ManualClock
from tests.semantic_cache.doubles import ChosenEmbedder, ToldJudge, ask, at, hit, miss, opened, policies, put


def kind(name: str, sharing: Sharing) -> Category:
    return Category(
        name,
        similarity=0.9,
        ttl_s=3600,
        quota=0.1,
        error_target=0.05,
        guards=frozenset(),
        sharing=sharing,
        shadow_rate=0.0,
    )


OWN, SEEN = kind("own", Sharing.PRINCIPAL), kind("seen", Sharing.SECOND_SIGHTING)


def embedder() -> ChosenEmbedder:
    return ChosenEmbedder(a=at(1.0), b=at(0.98))


async def test_what_is_personal_stays_with_its_principal(tmp_path: Path) -> None:
    cache = await opened(tmp_path, embedder=embedder(), categories=policies(OWN))
    await put(cache, ask("a", category="own", principal="ann"))
    for question in ("a", "b"):
        await hit(cache, ask(question, category="own", principal="ann"))
        await miss(cache, ask(question, category="own", principal="bob"))
        await miss(cache, ask(question, category="own", principal=None))
        await miss(cache, ask(question, principal="bob"))  # another category does not open it
    await cache.close()


async def test_an_unrecognised_question_stays_with_its_principal(tmp_path: Path) -> None:
    cache = await opened(tmp_path, embedder=embedder(), categories=policies(OWN))
    await put(cache, ask("a", category=None, principal="ann"))
    await hit(cache, ask("a", category=None, principal="ann"))
    await miss(cache, ask("a", category=None, principal="bob"))
    await miss(cache, ask("b", principal="bob"))
    await cache.close()


async def test_an_entry_is_shared_once_a_second_principal_got_the_same(tmp_path: Path) -> None:
    cache = await opened(tmp_path, embedder=embedder(), categories=policies(SEEN))
    await put(cache, ask("a", category="seen", principal="ann"), "A")
    await hit(cache, ask("b", category="seen", principal="ann"))
    await miss(cache, ask("b", category="seen", principal="bob"))
    await put(cache, ask("a", category="seen", principal="bob"), "a")
    assert (await hit(cache, ask("b", category="seen", principal="cid"))).value == "A"
    assert (await hit(cache, ask("a", category="seen", principal=None))).value == "A"
    await cache.close()
    cache = await opened(tmp_path, embedder=embedder(), categories=policies(SEEN))
    await hit(cache, ask("b", category="seen", principal="cid"))
    await cache.close()


async def test_a_poisoned_answer_is_not_shared(tmp_path: Path) -> None:
    cache = await opened(tmp_path, embedder=embedder(), categories=policies(SEEN))
    await put(cache, ask("a", category="seen", principal="mallory"), "run rm -rf")
    await put(cache, ask("a", category="seen", principal="ann"), "ls")
    await miss(cache, ask("a", category="seen", principal="bob"))
    await miss(cache, ask("b", category="seen", principal="bob"))
    assert (await hit(cache, ask("a", category="seen", principal="ann"))).value == "ls"
    await cache.close()


async def test_the_same_principal_twice_is_no_second_sighting(tmp_path: Path) -> None:
    clock = ManualClock()
    cache = await opened(tmp_path, categories=policies(SEEN), clock=clock)
    await put(cache, ask("a", category="seen", principal="ann"), "A")
    clock.advance(10)
    await put(cache, ask("a", category="seen", principal="ann", max_age_s=1.0), "A")
    await miss(cache, ask("a", category="seen", principal="bob"))
    await cache.close()


async def test_what_a_second_sighting_is_compared_with_is_never_an_entry_that_is_gone(tmp_path: Path) -> None:
    clock = ManualClock()
    cache = await opened(tmp_path, categories=policies(SEEN), clock=clock)
    await put(cache, ask("a", category="seen", principal="ann"), "old")
    clock.advance(10)
    await put(cache, ask("a", category="seen", principal="ann", max_age_s=1.0), "new")  # in the place of the first
    cache._state.check()
    await put(cache, ask("a", category="seen", principal="bob"), "new")
    assert (await hit(cache, ask("a", category="seen", principal="cid"))).value == "new"
    for name in "bcdef":
        await put(cache, ask(name, category="seen", principal="ann"))
    await cache.flush(confirm="flush all tenants all categories")
    cache._state.check()
    assert not cache._state._waiting
    await cache.close()


async def test_a_verdict_that_comes_after_a_report_shares_nothing(tmp_path: Path) -> None:
    asked, answered = asyncio.Event(), asyncio.Event()

    class Late(ToldJudge):
        async def same(self, case: object) -> bool:
            asked.set()
            await answered.wait()
            return True

    cache = await opened(tmp_path, categories=policies(SEEN), judge=Late(lambda case: True))
    first = await put(cache, ask("a", category="seen", principal="ann"), "A")
    outcome = await cache.lookup(ask("a", category="seen", principal="bob"))
    assert isinstance(outcome, Miss)
    await cache.store(outcome.ticket, Answer("A"))
    await asked.wait()
    await cache.report_bad(tenant="t", principal="bob", entry=first)
    answered.set()
    await cache.settle()
    await miss(cache, ask("a", category="seen", principal="cid"))
    await cache.close()


async def test_nothing_is_written_without_a_principal(tmp_path: Path) -> None:
    cache = await opened(tmp_path)
    outcome = await cache.lookup(ask("a", principal=None))
    assert isinstance(outcome, Miss)
    assert await cache.store(outcome.ticket, Answer("x")) == NotStored("no_principal")
    await put(cache, ask("a"))
    await hit(cache, ask("a", principal=None))
    await cache.close()


async def test_writing_has_a_rate_for_each_principal(tmp_path: Path) -> None:
    clock = ManualClock()
    cache = await opened(tmp_path, clock=clock, settings=CacheSettings(inserts_per_minute=60, insert_burst=2))

    async def write(question: str, principal: str) -> Stored | NotStored:
        outcome = await cache.lookup(ask(question, principal=principal))
        assert isinstance(outcome, Miss)
        return await cache.store(outcome.ticket, Answer("x"))

    results = [await write(f"q{i}", "flood") for i in range(4)]
    assert [isinstance(r, Stored) for r in results] == [True, True, False, False]
    assert results[-1] == NotStored("rate")
    assert isinstance(await write("other", "calm"), Stored)
    clock.advance(1)
    assert isinstance(await write("later", "flood"), Stored)
    await cache.close()


async def test_a_flight_is_not_shared_where_answers_are_not(tmp_path: Path) -> None:
    cache = await opened(tmp_path, categories=policies(OWN))
    leader = await cache.lookup(ask("a", category="own", principal="ann"))
    assert isinstance(leader, Miss)
    assert isinstance(await cache.lookup(ask("a", category="own", principal="bob")), Miss)
    await cache.close()


@pytest.mark.parametrize("seed", [1, 2])
async def test_random_traffic_of_many_tenants_and_principals_never_crosses(tmp_path: Path, seed: int) -> None:
    """Every answer carries who may read it; 600 lookups of near-equal questions by 4 tenants x 3 principals."""
    rng = random.Random(seed)
    near = ChosenEmbedder(**{f"q{i}": at(1.0 - i / 1000) for i in range(6)})
    cache = await opened(
        tmp_path, embedder=near, categories=policies(OWN, SEEN), settings=CacheSettings(insert_burst=9999)
    )
    hits = 0
    for _ in range(600):
        tenant, principal = f"t{rng.randrange(4)}", f"p{rng.randrange(3)}"
        category = rng.choice(["plain", "own", "seen"])
        outcome = await cache.lookup(ask(f"q{rng.randrange(6)}", tenant=tenant, principal=principal, category=category))
        if isinstance(outcome, Hit):
            hits += 1
            assert isinstance(outcome.value, dict)
            assert outcome.value["tenant"] == tenant
            if "own" in (category, outcome.value["category"]) or outcome.value["category"] == "seen":
                assert outcome.value["principal"] == principal
        elif isinstance(outcome, Miss):
            written = {"tenant": tenant, "principal": principal, "category": category}
            await cache.store(outcome.ticket, Answer(written))
    await cache.settle()
    assert hits > 300
    cache._state.check()
    await cache.close()
