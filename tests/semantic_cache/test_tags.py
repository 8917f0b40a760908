"""Staleness: a bump of a tag is obeyed from the moment that it is made."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from semantic_cache import Answer, CacheSettings, Hit, Miss, NotStored
from tests.semantic_cache.doubles import ChosenEmbedder, ToldJudge, ask, at, hit, miss, opened, put

ORDERS = {"table:orders": ""}


def embedder() -> ChosenEmbedder:
    return ChosenEmbedder(a=at(1.0), b=at(0.98), c=at(0.87))


async def test_a_bump_ends_what_depends_on_the_tag_and_nothing_else(tmp_path: Path) -> None:
    cache = await opened(tmp_path, embedder=embedder())
    await put(cache, ask("a", tags=ORDERS | {"table:users": ""}))
    await put(cache, ask("x", tags={"table:users": ""}))
    await put(cache, ask("y"))
    assert await cache.bump("table:orders", dry_run=True) == 1
    await hit(cache, ask("b"))
    assert await cache.bump("table:orders") == 1
    await miss(cache, ask("a"))
    await miss(cache, ask("b"))
    await hit(cache, ask("x"))
    await hit(cache, ask("y"))
    assert await cache.bump("table:orders") == 0
    await cache.close()


async def test_a_bump_may_be_one_tenants(tmp_path: Path) -> None:
    cache = await opened(tmp_path)
    for tenant in ("t", "u"):
        await put(cache, ask("a", tenant=tenant, tags=ORDERS))
    assert await cache.bump("table:orders", "u") == 1
    await hit(cache, ask("a", tenant="t"))
    await miss(cache, ask("a", tenant="u"))
    assert await cache.bump("table:orders") == 1
    await miss(cache, ask("a", tenant="t"))
    await cache.close()


async def test_the_bump_holds_before_it_is_written(tmp_path: Path) -> None:
    cache = await opened(tmp_path)
    await put(cache, ask("a", tags=ORDERS))
    bumping = asyncio.create_task(cache.bump("table:orders"))
    await asyncio.sleep(0)
    assert not bumping.done()
    await miss(cache, ask("a"))
    await bumping
    await cache.close()


async def test_an_answer_made_from_older_data_is_not_kept(tmp_path: Path) -> None:
    cache = await opened(tmp_path)
    outcome = await cache.lookup(ask("a", tags=ORDERS))
    assert isinstance(outcome, Miss)
    follower = asyncio.create_task(cache.lookup(ask("a", tags=ORDERS)))
    await asyncio.sleep(0)
    await cache.bump("table:orders")
    assert await cache.store(outcome.ticket, Answer("old")) == NotStored("stale")
    assert isinstance(await follower, Miss)
    assert (await miss(cache, ask("a"))).reason != "x"
    await cache.close()


async def test_a_bump_while_the_answer_is_being_written_wins(tmp_path: Path) -> None:
    cache = await opened(tmp_path)
    outcome = await cache.lookup(ask("a", tags=ORDERS))
    assert isinstance(outcome, Miss)
    storing = asyncio.create_task(cache.store(outcome.ticket, Answer("old")))
    for _ in range(3):
        await asyncio.sleep(0)
    await cache.bump("table:orders")
    assert await storing == NotStored("stale")
    await miss(cache, ask("a"))
    await cache.close()
    cache = await opened(tmp_path)
    await miss(cache, ask("a"))
    await cache.close()


async def test_a_promoted_question_goes_with_the_answers_tags(tmp_path: Path) -> None:
    cache = await opened(tmp_path, embedder=embedder(), judge=ToldJudge(lambda case: True))
    await put(cache, ask("a", tags=ORDERS), "A")
    await miss(cache, ask("c"))
    await cache.settle()
    await hit(cache, ask("c"))
    await cache.bump("table:orders")
    await miss(cache, ask("c"))
    await cache.close()


async def test_bumps_survive_a_restart(tmp_path: Path) -> None:
    cache = await opened(tmp_path)
    await put(cache, ask("a", tags=ORDERS))
    await cache.bump("table:orders")
    await cache.close()
    cache = await opened(tmp_path)
    await miss(cache, ask("a"))
    await put(cache, ask("a", tags=ORDERS), "new")
    assert (await hit(cache, ask("a"))).value == "new"
    await cache.close()


async def test_an_entry_older_than_a_bump_is_dropped_at_start(tmp_path: Path) -> None:
    """The process died after the bump was on the disk and before the entries were deleted."""
    cache = await opened(tmp_path)
    await put(cache, ask("a", tags=ORDERS))
    await cache._store.write([("INSERT INTO bumps VALUES ('*', 'table:orders', 5)", ())])
    await cache.close()
    cache = await opened(tmp_path)
    assert cache.stats().entries == 0
    await put(cache, ask("a", tags=ORDERS))
    await hit(cache, ask("a"))
    assert await cache.bump("table:orders") == 1
    await cache.close()


async def test_versions_are_part_of_the_partition(tmp_path: Path) -> None:
    cache = await opened(tmp_path, embedder=embedder())
    await put(cache, ask("a", tags={"doc": "1"}))
    await hit(cache, ask("b", tags={"doc": "1"}))
    await miss(cache, ask("a", tags={"doc": "2"}))
    await miss(cache, ask("b", tags={"doc": "2"}))
    assert await cache.bump("doc") == 1
    await miss(cache, ask("a", tags={"doc": "1"}))
    await cache.close()


@pytest.mark.parametrize("seed", range(3))
async def test_no_stale_hit_in_interleaved_traffic(tmp_path: Path, seed: int) -> None:
    """Readers, writers and bumps at once. The world's version of a tag is kept beside; a hit whose answer was made
    from an older version than stood when its lookup began is stale."""
    rng = random.Random(seed)
    cache = await opened(tmp_path, embedder=embedder(), settings=CacheSettings(insert_burst=10**6, flight_wait_s=5))
    world = {f"table:{i}": 0 for i in range(3)}
    stale = hits = 0

    async def reader() -> None:
        nonlocal stale, hits
        for _ in range(60):
            tag = rng.choice(list(world))
            began = world[tag]
            outcome = await cache.lookup(ask(rng.choice("abc"), variables={"t": tag}, tags={tag: ""}))
            if isinstance(outcome, Hit):
                hits += 1
                stale += outcome.value < began  # type: ignore[operator]
            elif isinstance(outcome, Miss):
                seen = world[tag]
                for _ in range(rng.randrange(4)):
                    await asyncio.sleep(0)
                await cache.store(outcome.ticket, Answer(seen))

    async def bumper() -> None:
        for _ in range(30):
            for _ in range(rng.randrange(40)):
                await asyncio.sleep(0)
            tag = rng.choice(list(world))
            world[tag] += 1
            await cache.bump(tag)

    await asyncio.gather(*(reader() for _ in range(8)), bumper())
    assert stale == 0
    assert hits > 20
    await cache.settle()
    cache._state.check()
    await cache.close()
