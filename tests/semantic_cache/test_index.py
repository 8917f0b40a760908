from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from semantic_cache.index.graph import Graph, GraphWork
from semantic_cache.index.partitions import VectorIndex
from semantic_cache.index.scan import BLOCK_ROWS, ScanRows
from semantic_cache.index.table import SLOT_BITS, EntryTable

DIM = 24


def vectors(count: int, seed: int = 0) -> NDArray[np.float32]:
    x = np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)
    normed: NDArray[np.float32] = x / np.linalg.norm(x, axis=1, keepdims=True)
    return normed


class Entries:
    """Ids that are alive until they are killed."""

    def __init__(self) -> None:
        self.dead: set[int] = set()

    def __call__(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.array([i not in self.dead for i in ids.tolist()], dtype=bool)


def build(index: VectorIndex) -> int:
    """Do all index work that is due; returns how many pieces."""
    pieces = 0
    while (planned := index.due()) is not None:
        made = planned.work.run(lambda: True)
        assert made is not None
        index.install(planned, made)
        pieces += 1
    return pieces


def brute(x: NDArray[np.float32], q: NDArray[np.float32], alive: list[int], count: int) -> list[int]:
    scores = x[alive] @ q
    return [alive[i] + 1 for i in np.argsort(-scores, kind="stable")[:count]]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 59), st.booleans()), max_size=120), st.integers(0, 3))
def test_scan_finds_what_a_plain_search_finds_whatever_came_and_went(
    steps: list[tuple[int, int, bool]], asked: int
) -> None:
    x, alive = vectors(60), Entries()
    index = VectorIndex(DIM, alive)
    where: dict[int, tuple[int, int]] = {}
    for partition, row, add in steps:
        if add and row not in where and row + 1 not in alive.dead:
            where[row] = (partition, index.add(b"%d" % partition, np.array([row + 1]), x[row : row + 1]))
        elif not add and row in where:
            alive.dead.add(row + 1)
            index.remove(where.pop(row)[1], row + 1)
    query = vectors(1, seed=9)[0]
    ids, similarity = index.nearest(b"%d" % asked, query, count=5, floor=-1.0, allowed=alive)
    expected = brute(x, query, sorted(r for r, (p, _) in where.items() if p == asked), 5)
    assert ids.tolist() == expected
    assert similarity.tolist() == pytest.approx([float(x[i - 1] @ query) for i in expected], abs=1e-5)
    assert len(index) == len({p for p, _ in where.values()})


def test_a_partition_never_sees_another_one() -> None:
    x = vectors(400)
    index = VectorIndex(DIM, lambda ids: np.ones(len(ids), dtype=bool))
    for row in range(400):
        index.add(b"%d" % (row % 20), np.array([row + 1]), x[row : row + 1])
    for row in range(400):
        ids, similarity = index.nearest(
            b"%d" % (row % 20), x[row], count=30, floor=-1.0, allowed=lambda i: np.ones(len(i), dtype=bool)
        )
        assert {(i - 1) % 20 for i in ids.tolist()} == {row % 20}
        assert (ids[0], round(float(similarity[0]), 4)) == (row + 1, 1.0)


def test_the_floor_and_what_is_not_allowed_are_left_out_and_the_search_widens() -> None:
    x = np.repeat(vectors(1), 50, axis=0)
    index = VectorIndex(DIM, lambda ids: np.ones(len(ids), dtype=bool))
    index.add(b"p", np.arange(1, 51), x)
    ids, _ = index.nearest(b"p", x[0], count=2, floor=0.5, allowed=lambda found: found == 17)
    assert ids.tolist() == [17]
    ids, _ = index.nearest(b"p", -x[0], count=2, floor=0.5, allowed=lambda found: found > 0)
    assert ids.tolist() == []
    assert index.nearest(b"q", x[0], count=2, floor=0.5, allowed=lambda found: found > 0)[0].tolist() == []


def test_a_large_partition_becomes_a_graph_and_still_finds() -> None:
    x, alive = vectors(900), Entries()
    index = VectorIndex(DIM, alive, scan_rows=300, tail_rows=100)
    for start in range(0, 900, 50):
        index.add(b"p", np.arange(start + 1, start + 51), x[start : start + 50])
    assert build(index) >= 1
    found = [index.nearest(b"p", x[i], count=1, floor=0.9, allowed=alive)[0].tolist() for i in range(900)]
    assert sum(f == [i + 1] for i, f in enumerate(found)) >= 890
    assert index.due() is None


def test_readers_see_everything_while_a_graph_is_being_built() -> None:
    x, alive = vectors(500), Entries()
    index = VectorIndex(DIM, alive, scan_rows=300, tail_rows=100)
    index.add(b"p", np.arange(1, 401), x[:400])
    planned = index.due()
    assert planned is not None
    index.add(b"p", np.arange(401, 501), x[400:])  # comes while the worker runs
    alive.dead.add(7)
    index.remove(planned.number, 7)  # goes while the worker runs
    assert index.due() is None, "one work at a time for a partition"
    assert index.nearest(b"p", x[450], count=1, floor=0.9, allowed=alive)[0].tolist() == [451]
    made = planned.work.run(lambda: True)
    assert made is not None
    index.install(planned, made)
    for row in (3, 399, 450, 499):
        assert index.nearest(b"p", x[row], count=1, floor=0.9, allowed=alive)[0].tolist() == [row + 1]
    assert index.nearest(b"p", x[6], count=1, floor=0.9, allowed=alive)[0].tolist() == []
    assert index.rows_in(b"p") == 499


def test_the_dead_are_dropped_and_a_small_graph_goes_back_to_a_scan() -> None:
    x, alive = vectors(600), Entries()
    index = VectorIndex(DIM, alive, scan_rows=300, tail_rows=100)
    number = index.add(b"p", np.arange(1, 601), x)
    build(index)
    before = index.nbytes
    for entry in range(1, 201):
        alive.dead.add(entry)
        index.remove(number, entry)
    assert build(index) == 1
    for entry in range(201, 480):
        alive.dead.add(entry)
        index.remove(number, entry)
    assert build(index) == 1
    assert index.nbytes < before / 2
    assert index.due() is None
    for row in range(479, 600):
        assert index.nearest(b"p", x[row], count=1, floor=0.9, allowed=alive)[0].tolist() == [row + 1]
    for entry in range(480, 601):
        alive.dead.add(entry)
        index.remove(number, entry)
    assert len(index) == 0


def test_work_that_is_not_wanted_any_more_changes_nothing() -> None:
    x, alive = vectors(400), Entries()
    index = VectorIndex(DIM, alive, scan_rows=300)
    index.add(b"p", np.arange(1, 401), x)
    planned = index.due()
    assert planned is not None
    assert planned.work.run(lambda: False) is None
    index.give_up(planned)
    assert index.nearest(b"p", x[0], count=1, floor=0.9, allowed=alive)[0].tolist() == [1]
    assert build(index) == 1


def test_a_partition_that_empties_while_the_worker_runs_is_gone_afterwards() -> None:
    x, alive = vectors(400), Entries()
    index = VectorIndex(DIM, alive, scan_rows=300)
    number = index.add(b"p", np.arange(1, 401), x)
    planned = index.due()
    assert planned is not None
    for entry in range(1, 401):
        alive.dead.add(entry)
        index.remove(number, entry)
    made = planned.work.run(lambda: True)
    assert made is not None
    index.install(planned, made)
    assert len(index) == 0
    assert index.add(b"q", np.array([900]), x[:1]) == number, "its number is free again"


def test_graphs_are_saved_whole_and_damaged_files_are_not_read(tmp_path: Path) -> None:
    graph, x = Graph.empty(DIM), vectors(100)
    graph.add(np.arange(1, 101), x)
    path = tmp_path / "deep" / "g.hnsw"
    graph.save(path)
    loaded = Graph.load(path, DIM)
    assert loaded is not None
    copied = loaded.copy()
    copied.add(np.array([500]), -x[:1])
    assert (len(loaded), len(copied)) == (100, 101)
    assert loaded.nearest(-x[0], 1)[0].tolist() != [500]
    assert copied.nearest(-x[0], 1)[0].tolist() == [500]
    assert (loaded.ids == np.arange(1, 101)).all()
    assert (loaded.rows(3, 2) == x[3:5].astype(np.float16)).all()
    assert Graph.load(path, DIM + 1) is None
    assert Graph.load(tmp_path / "none", DIM) is None
    (tmp_path / "noise").write_bytes(b"noise" * 100)
    assert Graph.load(tmp_path / "noise", DIM) is None
    (tmp_path / "cut").write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert Graph.load(tmp_path / "cut", DIM) is None
    with pytest.raises(OSError, match="blocked"):
        (tmp_path / "blocked.hnsw.tmp").mkdir()
        graph.save(tmp_path / "blocked.hnsw")


def test_a_great_import_is_searched_in_part_until_its_graphs_have_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semantic_cache.index.graph.FIRST_ROWS", 1_500)
    count = 3_300
    x, alive = vectors(count), Entries()
    index = VectorIndex(DIM, alive, scan_rows=300, tail_rows=100)
    index.add(b"p", np.arange(1, count + 1), x)

    def found(row: int) -> bool:
        return bool(index.nearest(b"p", x[row], count=1, floor=0.9, allowed=alive)[0].tolist() == [row + 1])

    assert found(count - 100)
    assert not found(5), "the scan has an end"
    sizes = []
    while (planned := index.due()) is not None:
        made = planned.work.run(lambda: True)
        assert isinstance(made, Graph)
        index.install(planned, made)
        sizes.append(len(made))
        assert found(5)
    assert sizes == [1_500, 3_000, count]


def test_rows_keep_their_vectors_over_blocks_removals_and_dropped_fronts() -> None:
    x = vectors(3 * BLOCK_ROWS)
    rows, kept = ScanRows(DIM), list(range(len(x)))
    for start in range(0, len(x), 700):
        rows.append(np.arange(start, min(start + 700, len(x))), x[start : start + 700])
    rows.drop_first(BLOCK_ROWS + 5)
    kept = kept[BLOCK_ROWS + 5 :]
    for gone in (kept[0], kept[-1], kept[900]):
        assert rows.remove(gone)
        kept.remove(gone)
    rows.append(np.array([len(x)]), x[:1])
    assert sorted(rows.ids.tolist()) == [*kept, len(x)]
    for ids, part in rows.pieces():
        assert len(ids) == len(part)
        assert (part == x[ids % len(x)]).all()
    for row in (kept[7], kept[-2]):
        assert rows.nearest(x[row], 1)[0].tolist() == [row]


def test_an_adopted_graph_takes_new_rows() -> None:
    x, alive = vectors(400), Entries()
    work = GraphWork(None, np.arange(1, 301), (x[:300],), alive, anew=False, flat=False, dimensions=DIM)
    made = work.run(lambda: True)
    assert made is not None
    assert not isinstance(made, ScanRows)
    index = VectorIndex(DIM, alive, scan_rows=100)
    alive.dead.update(range(1, 11))
    index.adopt(b"p", made, live=290)
    index.add(b"p", np.arange(301, 401), x[300:])
    assert index.rows_in(b"p") == 390
    for row in (5, 50, 350):
        expected = [] if row < 10 else [row + 1]
        assert index.nearest(b"p", x[row], count=1, floor=0.9, allowed=alive)[0].tolist() == expected


class TestTable:
    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.integers(0, 30), max_size=100))
    def test_ids_are_found_exactly_while_alive_and_never_come_back(self, steps: list[int]) -> None:
        table, alive, gone = EntryTable(capacity=2), [], []
        for step in steps:
            if step < 18 or not alive:
                entry = table.allocate()
                table.put(entry, size=step)
                alive.append(entry)
            else:
                entry = alive.pop(step % len(alive))
                assert table.remove(entry)
                gone.append(entry)
            table.check()
        assert sorted(table.entries()) == sorted(alive)
        assert all(table.alive(e) for e in alive)
        assert not any(table.alive(e) or table.remove(e) for e in gone)
        assert len(set(alive + gone)) == len(alive + gone)
        assert table.end <= 31 + len(steps)

    def test_slots_are_used_again(self) -> None:
        table = EntryTable()
        for _ in range(1000):
            entry = table.allocate()
            table.put(entry)
            table.remove(entry)
        assert table.end == 1

    def test_readers_see_what_is_shared_or_their_own(self) -> None:
        table = EntryTable()
        ids = []
        for reader in (0, 1, 2):
            ids.append(table.allocate())
            table.put(ids[-1], reader=reader)
        dead = table.allocate()
        table.put(dead)
        table.remove(dead)
        asked = np.array([*ids, dead, 5 << SLOT_BITS | 10**6])
        assert table.readable(asked, 1).tolist() == [True, True, False, False, False]
        assert table.readable(asked, -1).tolist() == [True, False, False, False, False]

    def test_restore_keeps_ids_and_gives_a_slot_to_the_newest(self) -> None:
        table = EntryTable()
        old, new = 3 << SLOT_BITS | 5, 9 << SLOT_BITS | 5
        lost = table.restore(np.array([new, old, 4 << SLOT_BITS | 1]))
        assert lost.tolist() == [old]
        table.put(new)
        table.put(4 << SLOT_BITS | 1)
        table.check()
        fresh = table.allocate()
        assert fresh >> SLOT_BITS == 10
        assert fresh & ((1 << SLOT_BITS) - 1) in (0, 2, 3, 4)
