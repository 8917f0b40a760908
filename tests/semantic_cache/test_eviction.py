from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from semantic_cache import CacheSettings, Category, InvalidPolicy, Limits, Policies
from semantic_cache.clock import ManualClock
from semantic_cache.eviction import Room, value_density, victims
from semantic_cache.index.table import EntryTable
from tests.semantic_cache.doubles import ChosenEmbedder, ask, hit, miss, opened, policies, put

OTHER = Category("other", similarity=0.9, ttl_s=3600, quota=0.5, error_target=0.05, guards=frozenset())


def table_of(**columns: list[float]) -> tuple[EntryTable, np.ndarray]:
    table = EntryTable()
    count = len(next(iter(columns.values())))
    ids = []
    for i in range(count):
        ids.append(table.allocate())
        row: dict[str, float] = {"created": 0.0, "expires": 86400.0, "seconds": 1.0, "size": 1000} | {
            n: v[i] for n, v in columns.items()
        }
        table.put(ids[-1], **row)
    return table, np.arange(count)


@pytest.mark.parametrize(
    "columns",
    [
        {"hits": [0, 1, 10]},
        {"seconds": [0.1, 1.0, 10.0]},
        {"tokens": [0, 100, 1000]},
        {"size": [100_000, 10_000, 1_000]},
        {"expires": [3700.0, 7200.0, 86400.0]},
        {"hits": [5, 5, 5], "last_hit": [100.0, 1800.0, 3600.0]},
    ],
)
def test_value_grows_with_what_an_entry_saves_and_falls_with_its_size(columns: dict[str, list[float]]) -> None:
    table, slots = table_of(**columns)
    density = value_density(table, slots, 3600.0, token_seconds=0.01)
    assert (np.diff(density) > 0).all()


def test_the_expired_are_worth_nothing_and_go_first() -> None:
    table, _ = table_of(expires=[100.0] * 5 + [10_000.0] * 75, hits=[50] * 5 + [0] * 75)
    gone = victims(table, 0, 500.0, 0.01, np.random.default_rng(0))
    assert len(gone) == 10
    assert {int(table.expires[table.slot(e)]) for e in gone[:5]} == {100}


def test_victims_are_of_the_category_asked_for_even_when_it_is_rare() -> None:
    table, _ = table_of(category=[0.0] * 20_000 + [1.0])
    assert victims(table, 1, 1.0, 0.01, np.random.default_rng(0)) == [table.ids[20_000]]


def test_who_borrowed_most_gives_back_first() -> None:
    kinds = Policies(
        [Category(n, similarity=0.9, ttl_s=60, quota=q, error_target=0.05) for n, q in (("a", 0.2), ("b", 0.6))]
    )
    room = Room(kinds, Limits(entries=100, bytes=10**9))
    for _ in range(50):
        room.taken(0, 10)
    assert not room.full()
    for _ in range(50):
        room.taken(1, 10)
    assert room.full()
    assert room.debtor() == 0  # 0.5 of 0.2 against 0.5 of 0.6


def test_limits_are_checked() -> None:
    with pytest.raises(InvalidPolicy):
        Limits(entries=0)
    with pytest.raises(InvalidPolicy):
        Limits(bytes=10, answer_bytes=100)


async def test_unused_quota_is_lent_and_taken_back(tmp_path: Path) -> None:
    settings = CacheSettings(limits=Limits(entries=64), insert_burst=10**6, judged_per_minute=1)
    cache = await opened(tmp_path, categories=policies(OTHER), settings=settings)
    for i in range(64):
        await put(cache, ask(f"p{i}"))
    rows = {c.category: c for c in cache.stats().categories}
    assert rows["plain"].entries == 64, "the whole room is lent"
    for i in range(40):
        await put(cache, ask(f"o{i}", category="other"))
    rows = {c.category: c for c in cache.stats().categories}
    assert rows["other"].entries >= 28
    assert 24 <= rows["plain"].entries <= 36
    assert rows["plain"].evicted >= 28
    cache._state.check()
    await cache.close()


async def test_at_capacity_the_useful_stay(tmp_path: Path) -> None:
    clock = ManualClock()
    settings = CacheSettings(limits=Limits(entries=40), insert_burst=10**6, judged_per_minute=1)
    cache = await opened(tmp_path, embedder=ChosenEmbedder(), settings=settings, clock=clock)
    for i in range(5):
        await put(cache, ask(f"good{i}"), seconds=5.0)
        for _ in range(5):
            await hit(cache, ask(f"good{i}"))
    for i in range(150):
        clock.advance(1)
        await put(cache, ask(f"once{i}"), seconds=0.2)
    for i in range(5):
        await hit(cache, ask(f"good{i}"))
    assert cache.stats().entries <= 40
    await cache.settle()
    cache._state.check()
    await cache.close()
    cache = await opened(tmp_path, embedder=ChosenEmbedder(), settings=settings, clock=clock)
    assert cache.stats().entries <= 40
    cache._state.check()
    await hit(cache, ask("good0"))
    await cache.close()


async def test_bytes_are_limited_too(tmp_path: Path) -> None:
    settings = CacheSettings(limits=Limits(bytes=20_000, answer_bytes=2_000), insert_burst=10**6)
    cache = await opened(tmp_path, settings=settings)
    for i in range(60):
        await put(cache, ask(f"q{i}"), "x" * 1000)
    assert cache.stats().bytes < 22_000
    await cache.close()


async def test_the_expired_are_swept_and_hits_are_written_down(tmp_path: Path) -> None:
    clock = ManualClock()
    cache = await opened(tmp_path, clock=clock, settings=CacheSettings(insert_burst=10**6))
    await put(cache, ask("old"))
    clock.advance(4000)
    for i in range(256):
        await put(cache, ask(f"q{i}"))
        await hit(cache, ask(f"q{i}"))
    await cache.settle()
    assert cache.stats().entries == 256
    assert await cache._store.query("SELECT count(*) FROM entries WHERE question = 'old'") == [(0,)]
    await miss(cache, ask("old"))
    await cache.close()
    cache = await opened(tmp_path, clock=clock)
    assert await cache._store.query("SELECT min(hits) FROM entries") == [(1,)]
    await cache.close()
