"""How fast the semantic cache finds: `python -m benchmarks.cache_index`.

The index and the cache are the product's own; vectors are made (see `cache_vectors`), but for the whole miss, which
embeds real text. Latencies are of one caller on one thread.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import ctypes
import gc
import json
import os
import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as `tenuto serve` does, before numpy is loaded

import numpy as np
from numpy.typing import NDArray

from benchmarks.cache_vectors import DIMENSIONS, Questions
from benchmarks.common import Figure, conditions, finish, parser, percentile
from orchestrator.cli.server import settle_interpreter
from semantic_cache import (
    Answer,
    CacheRequest,
    CacheSettings,
    Category,
    Hit,
    Limits,
    Miss,
    Policies,
    QuestionHole,
    SemanticCache,
)
from semantic_cache.embedders import OnnxEmbedder
from semantic_cache.embedders.export import export
from semantic_cache.index.partitions import VectorIndex
from semantic_cache.index.table import SHARED, EntryTable
from semantic_cache.request import keys_of

CALL_S = 0.2
FLOOR = 0.6
Floats = NDArray[np.float32]


def main() -> None:
    """Measure, print, store."""
    arguments = parser("cache_index", "how fast the semantic cache finds")
    arguments.add_argument("--entries", type=int, default=None, help="of the large partition (default: 1,000,000)")
    arguments.add_argument("--embedder", default=None, help="model directory or hub id; default: the installed weights")
    args = arguments.parse_args()
    at_start = conditions(args.seed, args.quick)
    settle_interpreter()  # as the server does
    detail: dict[str, Any] = {}
    figures = _partition_figures(args, detail)
    figures += asyncio.run(_miss_figures(args, detail))
    figures += asyncio.run(_eviction_figures(args, detail))
    figures += _large_figures(args, detail)
    finish("cache_index", figures, args=args, at_start=at_start, detail=detail)


# -- one large partition --------------------------------------------------------------------------------


def _large_figures(args: argparse.Namespace, detail: dict[str, Any]) -> list[Figure]:
    entries = args.entries or (50_000 if args.quick else 1_000_000)
    questions, queries = Questions(entries, args.seed), 300 if args.quick else 2_000
    before = _resident()
    table = EntryTable(capacity=entries)
    index = VectorIndex(DIMENSIONS, table.living)
    exact: dict[int, int] = {}
    began = time.perf_counter()
    for first, vectors in questions.chunks():
        ids = np.array([table.allocate() for _ in range(len(vectors))])
        number = index.add(b"large", ids, vectors)
        for offset, entry in enumerate(ids.tolist()):
            key = (first + offset) * 0x9E3779B97F4A7C15 % 2**64
            table.put(
                entry,
                exact=key,
                partition=number,
                reader=SHARED,
                created=1.0,
                expires=2.0,
                seconds=1.0,
                tokens=1,
                size=1,
            )
            exact[key] = entry
    made_s = time.perf_counter() - began
    began = time.perf_counter()
    while (work := index.due()) is not None:
        built = work.work.run(lambda: True, threads=os.cpu_count() or 1)
        assert built is not None
        index.install(work, built)
    build_s = time.perf_counter() - began
    del built, vectors, ids
    asked = questions.asked(queries, 1)
    found, latencies = [], []
    for vector in asked:
        began = time.perf_counter()
        ids, _ = index.nearest(b"large", vector, count=4, floor=FLOOR, allowed=lambda ids: table.readable(ids, 1))
        latencies.append(time.perf_counter() - began)
        found.append(int(ids[0]) if len(ids) else -1)
    checked = min(queries, 300)
    held = _resident() - before
    detail["large"] = {
        "entries": entries,
        "build_s": build_s,
        "made_s": made_s,
        "index_bytes_allocated": index.nbytes,
        "table_bytes": table.nbytes,
        "exact_keys": len(exact),
        "recall_checked": checked,
        "resident_bytes": held,
    }
    recall = _recall(questions, asked[:checked], found[:checked])
    latencies = latencies[len(latencies) // 20 :]  # the first touch pages the graph in
    scale = entries / 1_000_000
    return [
        Figure("lookup_1m_p50_s", percentile(latencies, 0.5), "<=", 0.0003),
        Figure("lookup_1m_p99_s", percentile(latencies, 0.99), "<=", 0.0006),
        Figure("recall_1m", recall, ">=", 0.98),
        Figure("bytes_1m", held / scale, "<=", 1.2e9),
    ]


def _resident() -> int:
    """Bytes of this process that are in memory, once what is free was given back: what is really taken."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def _recall(questions: Questions, asked: Floats, found: list[int]) -> float:
    """Share of queries whose true nearest neighbour (by half-precision vectors, as kept) was found."""
    best, where = np.full(len(asked), -2.0, np.float32), np.zeros(len(asked), np.int64)
    for first, vectors in questions.chunks():
        similarity = vectors.astype(np.float16).astype(np.float32) @ asked.T
        at = similarity.argmax(0)
        top = similarity[at, np.arange(len(asked))]
        better = top > best
        best[better], where[better] = top[better], first + at[better]
    slots = np.array(found) & (2**24 - 1)
    return float((slots == where).mean())


# -- many small partitions ------------------------------------------------------------------------------


def _partition_figures(args: argparse.Namespace, detail: dict[str, Any]) -> list[Figure]:
    tenants, rows = 200, 200
    lookups = 20_000 if args.quick else 1_000_000
    table = EntryTable(capacity=tenants * rows)
    index = VectorIndex(DIMENSIONS, table.living)
    vectors = np.concatenate([v for _, v in Questions(tenants * rows, args.seed).chunks()])
    owner: dict[int, int] = {}
    for tenant in range(tenants):
        ids = np.array([table.allocate() for _ in range(rows)])
        index.add(b"%d" % tenant, ids, vectors[tenant::tenants])  # neighbours belong to different tenants
        for entry in ids.tolist():
            table.put(entry, reader=SHARED)
            owner[entry] = tenant
    asked = Questions(tenants * rows, args.seed).asked(4_096, 2)
    rng = np.random.default_rng(args.seed)
    foreign, right, checked = 0, 0, 0
    began = time.perf_counter()
    for number, tenant in enumerate(rng.integers(0, tenants, lookups).tolist()):
        vector = asked[number % len(asked)]
        ids, _ = index.nearest(b"%d" % tenant, vector, count=4, floor=-1.0, allowed=lambda i: table.readable(i, 1))
        foreign += sum(owner[entry] != tenant for entry in ids.tolist())
        if number < 5_000:
            own = vectors[tenant::tenants]
            checked += 1
            right += int(ids[0]) & (2**24 - 1) == tenant * rows + int((own @ vector).argmax())
    detail["partitions"] = {"lookups": lookups, "seconds": time.perf_counter() - began, "recall_checked": checked}
    return [
        Figure("recall_200_tenants", right / checked, ">=", 1.0),
        Figure("cross_partition_hits", foreign, "==", 0),
    ]


# -- the whole cache ------------------------------------------------------------------------------------


def _category(name: str, similarity: float) -> Category:
    return Category(
        name, similarity=similarity, floor=similarity, ttl_s=1e9, quota=0.9, error_target=0.05, guards=frozenset(),
        shadow_rate=0.0,
    )  # fmt: skip


def _request(question: str, category: str) -> CacheRequest:
    return CacheRequest(
        tenant="t",
        model="m",
        messages=(("user", (QuestionHole(),)),),
        question=question,
        principal="p",
        category=category,
    )


def _lines(texts: list[str], vectors: Floats, digest: str, category: str) -> Iterator[str]:
    """Entries as an export has them."""
    wall = time.time()
    for text, vector in zip(texts, vectors, strict=True):
        keys = keys_of(_request(text, category))
        yield json.dumps(
            {
                "tenant": "t", "partition": keys.partition.hex(), "exact": keys.exact.hex(), "category": category,
                "declared": True, "question": text, "vector": base64.b64encode(vector.astype(np.float16)).decode(),
                "digest": digest, "body": base64.b64encode(json.dumps(text * 4).encode()).decode(), "seconds": 1.0,
                "tokens": 100, "created": wall, "expires": wall + 1e9, "shared": True, "tags": [], "template": None,
                "parts": {},
            }
        )  # fmt: skip


_SUBJECTS = [
    "orders",
    "customers",
    "invoices",
    "deliveries",
    "payments",
    "returns",
    "tickets",
    "contracts",
    "meetings",
    "reports",
]
_VERBS = ["shipped", "cancelled", "opened", "approved", "delayed", "archived"]
_PLACES = ["france", "spain", "canada", "brazil", "japan", "kenya", "norway", "poland", "chile", "india"]


def _texts(count: int, seed: int) -> list[str]:
    """Questions of about 13 tokens, all different."""
    rng = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        number, year = rng.randint(2, 9_999), rng.randint(1990, 2026)
        found[
            f"which {number} {rng.choice(_SUBJECTS)} from {rng.choice(_PLACES)} were {rng.choice(_VERBS)} in {year}"
        ] = None
    return list(found)


async def _miss_figures(args: argparse.Namespace, detail: dict[str, Any]) -> list[Figure]:
    """A miss from lookup to verdict, the embedding and the reading of four near entries included."""
    entries, misses = (2_000, 150) if args.quick else (10_000, 1_000)
    with tempfile.TemporaryDirectory() as directory:
        export(Path(directory) / "model", args.embedder)
        embedder = OnnxEmbedder(Path(directory) / "model")
        texts = _texts(entries + misses, args.seed)
        some = np.stack([v for t in texts[:200] if (v := embedder.embed_now(t)) is not None])
        rng = np.random.default_rng(args.seed)
        vectors = some[rng.integers(0, len(some), entries)]
        vectors = vectors + 0.01 * rng.standard_normal(vectors.shape).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        cache = await SemanticCache.open(
            Path(directory) / "cache.db", embedder=embedder, policies=Policies([_category("strict", 0.9999)]),
            settings=CacheSettings(insert_burst=1e12, learn_categories=False), rng=random.Random(args.seed),
        )  # fmt: skip
        await cache.import_(_lines(texts[:entries], vectors, embedder.digest, "strict"), author="p")
        await cache.settle()  # the partition's graph
        latencies, tokens = [], []
        for text in texts[entries:]:
            began = time.perf_counter()
            outcome = await cache.lookup(_request(text, "strict"))
            latencies.append(time.perf_counter() - began)
            assert isinstance(outcome, Miss), outcome
            cache.abandon(outcome.ticket)
            tokens.append(len(embedder.tokenize(text)))
        hits = []
        for text in texts[: len(latencies)]:
            began = time.perf_counter()
            assert isinstance(await cache.lookup(_request(text, "strict")), Hit)
            hits.append(time.perf_counter() - began)
        await cache.close()
        await embedder.close()
    latencies = latencies[len(latencies) // 20 :]
    lookup_s, hit_s = sum(latencies) / len(latencies), percentile(hits, 0.5)
    detail["miss"] = {
        "entries": entries,
        "mean_s": lookup_s,
        "exact_hit_p50_s": hit_s,
        "tokens": percentile(tokens, 0.5),
    }
    return [
        Figure("miss_p50_s", percentile(latencies, 0.5), "<=", 0.0015),
        Figure("miss_p99_s", percentile(latencies, 0.99), "<=", 0.003),
        Figure("break_even_hit_rate_200ms", lookup_s / (CALL_S - hit_s), "<=", 0.01),
    ]


@dataclass
class _Known:
    """An embedder that knows its texts already."""

    vectors: dict[str, Floats]
    digest: str = "known"
    dimensions: int = DIMENSIONS

    async def embed(self, text: str) -> Floats:
        return self.vectors[text]

    async def close(self) -> None: ...


async def _eviction_figures(args: argparse.Namespace, detail: dict[str, Any]) -> list[Figure]:
    """A full cache that goes on taking in: what an insert takes, and how long a reader on the loop waits for others.

    Blocking is counted in CPU time of the loop's thread between two turns of the reader: work that stands in its way,
    without the pauses of the operating system; wall time stands in the detail."""
    capacity, inserts = (5_000, 300) if args.quick else (100_000, 3_000)
    texts = [f"question {i}" for i in range(capacity + inserts)]
    vectors = np.concatenate([v for _, v in Questions(capacity + inserts, args.seed).chunks()])
    known = _Known(dict(zip(texts, vectors, strict=True)))
    with tempfile.TemporaryDirectory() as directory:
        cache = await SemanticCache.open(
            Path(directory) / "cache.db", embedder=known, policies=Policies([_category("strict", 0.9999)]),
            settings=CacheSettings(limits=Limits(entries=capacity), insert_burst=1e12, learn_categories=False),
            rng=random.Random(args.seed),
        )  # fmt: skip
        for first in range(0, capacity, 10_000):
            last = min(capacity, first + 10_000)
            await cache.import_(_lines(texts[first:last], vectors[first:last], "known", "strict"), author="p")
        await cache.settle()
        assert cache.stats().entries == capacity
        latencies: list[float] = []
        reading = asyncio.create_task(_read())
        for number, text in enumerate(texts[capacity:]):
            if number == inserts // 10:  # code and tables have been touched once
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
                reading, latencies = asyncio.create_task(_read()), []
            outcome = await cache.lookup(_request(text, "strict"))
            assert isinstance(outcome, Miss)
            began = time.perf_counter()
            await cache.store(outcome.ticket, Answer(text * 4, seconds=1.0))
            latencies.append(time.perf_counter() - began)
        evicted = sum(c.evicted for c in cache.stats().categories)
        reading.cancel()
        gaps = (await asyncio.gather(reading, return_exceptions=True))[0]
        assert isinstance(gaps, _Gaps), gaps
        await cache.close()
    detail["eviction"] = {
        "capacity": capacity,
        "evicted": evicted,
        "insert_p50_s": percentile(latencies, 0.5),
        "reader_wall_p99_s": percentile(gaps.wall, 0.99),
        "reader_wall_max_s": max(gaps.wall),
        "reader_turns": len(gaps.wall),
    }
    return [
        Figure("insert_evict_100k_p99_s", percentile(latencies, 0.99), "<=", 0.005),
        Figure("reader_blocked_max_s", max(gaps.cpu), "<=", 0.001),
    ]


class _Gaps(Exception):
    """What the reader saw."""

    def __init__(self) -> None:
        super().__init__("the reader was stopped")
        self.wall: list[float] = []
        self.cpu: list[float] = []


async def _read() -> None:
    gaps = _Gaps()
    try:
        while True:
            wall, cpu = time.perf_counter(), time.thread_time()
            await asyncio.sleep(0)
            gaps.wall.append(time.perf_counter() - wall)
            gaps.cpu.append(time.thread_time() - cpu)
    except asyncio.CancelledError:
        raise gaps from None


if __name__ == "__main__":
    main()
