"""Blocks and prefixes: hashes that name a whole prefix, leaf-first eviction, one listed block per prefix."""

from __future__ import annotations

import numpy as np
import pytest

from engine.clock import ManualClock
from engine.config import BLOCK_TOKENS
from engine.kv.blocks import BlockPool, Blocks, blocks_of
from engine.kv.cache import BlockCache, CopyKind
from engine.kv.prefix import ROOT, PrefixIndex, extend_chain, tail_digest
from engine.protocol import EngineEvent, EngineEventKind


def chain(tokens: list[int], salt: str = "") -> list[bytes]:
    hashes: list[bytes] = []
    extend_chain(hashes, tokens, salt)
    return hashes


def store(cache: BlockCache, tokens: list[int], program: str = "p") -> Blocks[int]:
    """Hold a chain, computing what is not there."""
    digests = chain(tokens)
    table = cache.find(digests, len(digests))
    cache.device.pool.refer(table)
    found = len(table)
    if found < len(digests):
        taken = cache.take(len(digests) - found, may_break_leases=False)
        assert taken is not None
        table.extend(taken)
    cache.publish(table, digests, found, len(digests), program)
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
    assert list(cache.device.pool.cached_order()) == [b[2], a[2], a[1], a[0]]
    cache.check()
    assert cache.take(4, may_break_leases=False) is not None, "two are free, two are evicted"
    cache.check()
    assert cache.find(chain(shared + [1] * 16), 3) == a[:2]


def test_a_prefix_in_use_is_never_evicted() -> None:
    cache = BlockCache(4, ManualClock())
    held = store(cache, list(range(32)))
    cache.release(store(cache, list(range(100, 132))))
    assert cache.take(3, may_break_leases=True) is None
    assert cache.take(2, may_break_leases=True) is not None
    assert cache.find(chain(list(range(32))), 2) == held
    cache.check()


def test_a_prefix_computed_twice_becomes_one_block() -> None:
    cache = BlockCache(4, ManualClock())
    first = store(cache, list(range(32)))
    table = cache.take(2, may_break_leases=False)
    assert table is not None
    own = list(table)
    cache.publish(table, chain(list(range(32))), 0, 2, "q")
    assert table == first and [cache.device.pool.refs(block) for block in first] == [2, 2]
    assert all(cache.device.pool.is_free(block) for block in own)
    cache.check()


def test_what_is_forgotten_takes_its_descendants_along() -> None:
    cache = BlockCache(8, ManualClock())
    shared = list(range(16))
    a, b = store(cache, shared + [1] * 32), store(cache, shared + [2] * 16)
    cache.release(b)
    cache.forget(chain(shared + [1] * 32)[1])
    cache.check()
    assert cache.find(chain(shared + [1] * 32), 3) == a[:1]
    assert cache.find(chain(shared + [2] * 16), 2) == b
    taken = cache.take(1, may_break_leases=False)
    assert taken is not None
    a.extend(taken)
    cache.publish(a, chain(shared + [1] * 48), 3, 4, "p")
    assert taken[0] not in cache.device.index, "its parent was forgotten"
    cache.release(a)
    cache.check()
    assert cache.device.pool.cached == 2


def test_a_partial_block_is_found_and_renamed_when_it_holds_more() -> None:
    cache = BlockCache(4, ManualClock())
    tokens = list(range(40))
    digests = chain(tokens)
    table = store(cache, tokens[:32])
    grown = cache.take(1, may_break_leases=False)
    assert grown is not None
    table.extend(grown)
    short, long = (tail_digest(digests, tokens, count, "") for count in (35, 40))
    assert tail_digest(digests, tokens, 32, "") is None and short is not None and long is not None
    cache.publish_tail(table, short, "p")
    assert cache.device.index.get(short) == grown[0]
    cache.publish_tail(table, long, "p")
    assert cache.device.index.get(short) is None and cache.device.index.get(long) == grown[0]
    full = chain(tokens + list(range(8)))
    cache.publish(table, full, 2, 3, "p")
    assert cache.find(full, 3) == table
    cache.release(table)
    cache.check()


def test_a_path_is_true_as_long_as_its_last_block_stays() -> None:
    cache = BlockCache(4, ManualClock())
    tokens = list(range(48))
    digests = chain(tokens)
    table = store(cache, tokens)
    path = cache.device.path(table)
    assert path is not None and cache.find(digests, 3, path) == table == cache.find(digests, 3)
    cache.release(table)
    assert cache.find(digests, 2, path) == table[:2], "a path longer than the limit is no help"
    other = cache.take(4, may_break_leases=False)
    assert other is not None and len(cache.find(digests, 3, path)) == 0
    cache.release(other)
    again = store(cache, tokens)
    assert cache.find(digests, 3, path) == again


def test_a_prefix_that_was_evicted_and_comes_again_is_told() -> None:
    cache = BlockCache(3, ManualClock())
    tokens = list(range(48))
    cache.release(store(cache, tokens))
    other = cache.take(2, may_break_leases=False)
    assert other is not None
    cache.release(other)
    table = cache.find(chain(tokens), 3)
    cache.device.pool.refer(table)
    taken = cache.take(2, may_break_leases=False)
    assert taken is not None
    table.extend(taken)
    assert cache.publish(table, chain(tokens), 1, 3, "p") == 2 * BLOCK_TOKENS
    assert cache.publish(table, chain(tokens), 1, 3, "p") == 0


def test_what_was_saved_on_the_host_is_loaded_again() -> None:
    cache = BlockCache(4, ManualClock(), host_blocks=4)
    tokens = list(range(48))
    digests = chain(tokens)
    table = store(cache, tokens)
    saved = cache.save(table, digests, "p")
    assert saved is not None and len(saved) == 3
    cache.release(table)
    cache.check()
    taken = cache.take(4, may_break_leases=False)
    assert taken is not None and len(cache.find(digests, 3)) == 0
    cache.release(taken)
    loaded = cache.load(digests, 0, ROOT, cache.host.index.run(digests, 0, 3), "p")
    assert cache.find(digests, 3) == loaded
    assert cache.copies == [
        (CopyKind.DEVICE_TO_HOST, list(zip(table, saved, strict=True))),
        (CopyKind.HOST_TO_DEVICE, list(zip(saved, loaded, strict=True))),
    ]
    cache.host.pool.drop(saved)
    assert cache.save(loaded, digests, "p") == saved, "it is there already"
    assert len(cache.copies) == 2
    assert cache.save(store(cache, list(range(100, 116))), chain(list(range(100, 148))), "p") is None, "it is full"
    cache.check()


def test_what_is_evicted_from_the_device_spills_to_the_host_and_is_found_there() -> None:
    cache = BlockCache(4, ManualClock(), host_blocks=3)
    tokens = list(range(64))
    digests = chain(tokens)
    cache.release(store(cache, tokens))
    taken = cache.take(2, may_break_leases=False)
    assert taken is not None
    cache.check()
    here = cache.find(digests, 4)
    assert len(here) == 2, "the leaves went first"
    sources = cache.host.index.run(digests, 2, 4)
    assert len(sources) == 2 and cache.host.pool.cached == 2
    ((kind, pairs),) = cache.copies
    assert kind is CopyKind.DEVICE_TO_HOST and [target for _, target in pairs] == list(sources)[::-1]
    cache.device.pool.refer(here)
    cache.release(taken)
    loaded = cache.load(digests, 2, here[-1], sources, "p")
    assert cache.find(digests, 4) == here + loaded
    cache.release(here + loaded)
    cache.take(4, may_break_leases=False)
    cache.check()
    assert cache.host.pool.cached == 3, "what is there already is not copied again, and the full host gives way"


def test_the_tiers_together_hold_as_much_as_both() -> None:
    cache = BlockCache(8, ManualClock(), host_blocks=12)  # four beside what is on its way
    chains = [list(range(100 * n, 100 * n + 4 * BLOCK_TOKENS)) for n in range(1, 5)]  # 16 blocks
    for tokens in chains:
        cache.release(store(cache, tokens))
    for tokens in chains * 2:
        digests = chain(tokens)
        table = cache.find(digests, 4)
        cache.device.pool.refer(table)
        sources = cache.host.index.run(digests, len(table), 4)
        assert len(table) + len(sources) == 4, "something was dropped although there was room for it"
        cache.host.pool.refer(sources)
        loaded = cache.load(digests, len(table), table[-1] if table else ROOT, sources, "p")
        cache.host.pool.drop(sources, spare=True)
        cache.release(table + loaded)
        cache.check()


def test_nothing_spills_when_computing_is_cheaper() -> None:
    cache = BlockCache(2, ManualClock(), host_blocks=3)
    cache.spills = False
    cache.release(store(cache, list(range(32))))
    cache.take(2, may_break_leases=False)
    assert not cache.copies and cache.host.pool.cached == 0


def test_the_host_lets_go_of_the_least_recently_used() -> None:
    cache = BlockCache(8, ManualClock(), host_blocks=4)
    for first in (0, 100, 200):
        tokens = list(range(first, first + 32))
        saved = cache.save(store(cache, tokens), chain(tokens), "p")
        assert saved is not None
        cache.host.pool.drop(saved)
        cache.check()
    here = [len(cache.host.index.run(chain(list(range(n, n + 32))), 0, 2)) for n in (0, 100, 200)]
    assert here == [0, 2, 2]


def test_events_are_summed_by_program_and_drained_once() -> None:
    cache = BlockCache(3, ManualClock())
    cache.release(store(cache, list(range(48)), "a"))
    assert cache.drain_events() == [EngineEvent(EngineEventKind.STORED, "a", 3)]
    assert cache.drain_events() == []
    cache.take(2, may_break_leases=False)
    assert cache.drain_events() == [EngineEvent(EngineEventKind.EVICTED, "a", 2)]


def test_what_was_removed_is_remembered_and_half_of_it_forgotten_when_it_is_four_times_the_memory() -> None:
    index = PrefixIndex(np.zeros(2, np.bool_))
    for number in range(9):
        assert index.insert(blocks_of((0,)), [number], None, "p") == 0
        index.remove(np.array([0], np.intp))
        index.check()
        assert len(index) == 0 and index.get(number) is None and not index.run([number], 0, 1)
    assert [number for number in range(9) if index.knows_any([number])] == [4, 5, 6, 7, 8]
    assert index.insert(blocks_of((0, 1)), [8, 3], None, "p") == 1
    index.check()
    assert index.get(8) == 0 and len(index) == 2
    index.rename(1, 5)
    index.check()
    assert index.get(5) == 1 and not index.knows_any([3])


def test_an_index_that_continues_another_tiers_remembers_nothing() -> None:
    index = PrefixIndex(np.zeros(2, np.bool_), closed=False)
    index.insert(blocks_of((0,)), [b"a"], None, "p")
    index.remove(np.array([0], np.intp))
    assert not index.knows_any([b"a"]) and index.insert(blocks_of((0,)), [b"a"], None, "p") == 0


def test_checks_find_what_is_wrong() -> None:
    pool = BlockPool(3)
    pool.check()
    pool._stack[1] = pool._stack[0]
    with pytest.raises(AssertionError, match="free twice"):
        pool.check()
    pool = BlockPool(3)
    assert pool.take(1) is not None
    pool.active = 0
    with pytest.raises(AssertionError, match="counters"):
        pool.check()
    index = PrefixIndex(np.zeros(3, np.bool_))
    index.insert(blocks_of((0, 1)), (b"a", b"b"), None, "p")
    index.check()
    index._digests[0] = b"c"
    with pytest.raises(AssertionError, match="digest"):
        index.check()


def test_block_size_is_what_hashes_assume() -> None:
    assert len(chain([0] * BLOCK_TOKENS)) == 1 and chain([0] * (BLOCK_TOKENS - 1)) == []
