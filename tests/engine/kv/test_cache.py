"""Blocks and prefixes: hashes that name a whole prefix, leaf-first eviction, one listed block per prefix."""

from __future__ import annotations

import pytest

from engine.clock import ManualClock
from engine.config import BLOCK_TOKENS
from engine.kv.blocks import BlockPool
from engine.kv.cache import BlockCache
from engine.kv.prefix import ROOT, PrefixIndex, extend_chain
from engine.protocol import EngineEvent, EngineEventKind


def chain(tokens: list[int], salt: str = "") -> list[bytes]:
    hashes: list[bytes] = []
    extend_chain(hashes, tokens, salt)
    return hashes


def store(cache: BlockCache, tokens: list[int], program: str = "p") -> list[int]:
    """Hold a chain, computing what is not there."""
    table: list[int] = []
    for digest in chain(tokens):
        block = cache.adopt(digest)
        if block is None:
            taken = cache.take(may_break_leases=False)
            assert taken is not None
            block = cache.publish(taken, digest, table[-1] if table else ROOT, program)
        table.append(block)
    return table


def test_a_hash_names_everything_before_it() -> None:
    tokens = list(range(64))
    hashes = chain(tokens)
    assert len(hashes) == 4 == len(set(hashes))
    assert chain([*tokens, 1, 2, 3]) == hashes
    changed = [99, *tokens[1:]]
    assert not set(chain(changed)) & set(hashes), "a later block's hash forgets what came before"
    assert chain(tokens[16:]) != hashes[1:]
    assert not set(chain(tokens, "tenant")) & set(hashes)


def test_hashes_grow_with_the_tokens() -> None:
    tokens = list(range(100))
    grown: list[bytes] = []
    for length in (3, 16, 17, 50, 96, 100):
        extend_chain(grown, tokens[:length], "s")
        assert grown == chain(tokens[:length], "s")


def test_eviction_is_least_recently_used_and_leaf_first() -> None:
    cache = BlockCache(6, ManualClock())
    shared = list(range(32))
    a, b = store(cache, shared + [1] * 16), store(cache, shared + [2] * 16)
    assert a[:2] == b[:2]
    cache.release(a)
    cache.release(b)
    store_again = store(cache, shared + [1] * 16)
    cache.release(store_again)
    order = []
    while (block := cache.pool.next_evicted()) is not None:
        order.append(block)
        cache._evict()
        cache.check()
    assert order == [b[2], a[2], a[1], a[0]]


def test_a_prefix_in_use_is_never_evicted() -> None:
    cache = BlockCache(4, ManualClock())
    held = store(cache, list(range(32)))
    cache.release(store(cache, list(range(100, 132))))
    taken = [cache.take(may_break_leases=True) for _ in range(3)]
    assert taken[2] is None and None not in taken[:2]
    assert cache.index.match(chain(list(range(32))), 9) == held
    cache.check()


def test_a_prefix_computed_twice_becomes_one_block() -> None:
    cache = BlockCache(4, ManualClock())
    first = store(cache, list(range(16)))
    block = cache.take(may_break_leases=False)
    assert block is not None
    assert cache.publish(block, chain(list(range(16)))[0], ROOT, "q") == first[0]
    assert cache.pool.refs(first[0]) == 2 and cache.pool.is_free(block)
    cache.check()


def test_what_is_forgotten_takes_its_descendants_along() -> None:
    cache = BlockCache(8, ManualClock())
    shared = list(range(16))
    a, b = store(cache, shared + [1] * 32), store(cache, shared + [2] * 16)
    cache.release(b)
    cache.forget(a[1])
    cache.check()
    assert cache.index.match(chain(shared + [1] * 32), 9) == a[:1]
    assert cache.index.match(chain(shared + [2] * 16), 9) == b
    taken = cache.take(may_break_leases=False)
    assert taken is not None
    hashes = chain(shared + [1] * 48)
    assert cache.publish(taken, hashes[3], a[2], "p") == taken and taken not in cache.index, "its parent was forgotten"
    cache.release([*a, taken])
    cache.check()
    assert cache.pool.cached == 2


def test_the_last_token_is_always_computed() -> None:
    cache = BlockCache(4, ManualClock())
    tokens = list(range(32))
    cache.release(store(cache, tokens))
    assert cache.cached_blocks(chain(tokens), 32) == (1, 1)
    assert cache.cached_blocks(chain(tokens), 33) == (2, 2)


def test_events_are_summed_by_program_and_drained_once() -> None:
    cache = BlockCache(3, ManualClock())
    cache.release(store(cache, list(range(48)), "a"))
    assert cache.drain_events() == [EngineEvent(EngineEventKind.STORED, "a", 3)]
    assert cache.drain_events() == []
    for _ in range(2):
        cache.take(may_break_leases=False)
    assert cache.drain_events() == [EngineEvent(EngineEventKind.EVICTED, "a", 2)]


def test_checks_find_what_is_wrong() -> None:
    pool = BlockPool(3)
    pool.check()
    pool._free.append(pool._free[0])
    with pytest.raises(AssertionError, match="free twice"):
        pool.check()
    pool = BlockPool(3)
    block = pool.take()
    assert block is not None
    pool.active = 0
    with pytest.raises(AssertionError, match="counters"):
        pool.check()
    index = PrefixIndex(3)
    index.insert(0, b"a", ROOT, "p")
    index.insert(1, b"b", 0, "p")
    index.check()
    index._hash[0] = None
    with pytest.raises(AssertionError):
        index.check()


def test_block_size_is_what_hashes_assume() -> None:
    assert len(chain([0] * BLOCK_TOKENS)) == 1 and chain([0] * (BLOCK_TOKENS - 1)) == []
