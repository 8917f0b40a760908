"""The cache under interleaved work and under death: stale answers after a bump, committed entries after a kill.

`python -m benchmarks.cache_durability DIRECTORY SEED` is the process that is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

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
    Stored,
)

_DIMENSIONS, _TAGS, _QUESTIONS, _WORKERS = 16, 20, 400, 16
_SETTINGS = CacheSettings(insert_burst=1e12, limits=Limits(entries=200_000), learn_categories=False)
_CATEGORIES = Policies(
    [Category("any", similarity=0.9, floor=0.9, ttl_s=1e6, quota=0.9, error_target=0.05, guards=frozenset())]
)


@lru_cache(maxsize=10_000)
def _vector(text: str) -> NDArray[np.float32]:
    number, _, wording = text.partition("/")
    vector = np.random.default_rng(int(number)).standard_normal(_DIMENSIONS)
    vector += 0.02 * np.random.default_rng(int(wording)).standard_normal(_DIMENSIONS)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


class _Wordings:
    """An embedder for "number/wording": wordings of one question are close, questions are not."""

    digest, dimensions = "wordings", _DIMENSIONS

    async def embed(self, text: str) -> NDArray[np.float32]:
        return _vector(text)

    async def close(self) -> None: ...


def _request(question: str, tag: str | None = None) -> CacheRequest:
    return CacheRequest(
        tenant="t", model="m", messages=(("user", (QuestionHole(),)),), question=question, principal="p",
        category="any", tags={} if tag is None else {tag: ""},
    )  # fmt: skip


@dataclass(slots=True)
class Interleaved:
    """What became of the operations. A hit is stale if it was made from data older than a bump that was asked for
    before the lookup began."""

    operations: int = 0
    hits: int = 0
    bumps: int = 0
    stale: int = 0


async def interleave(operations: int, seed: int) -> Interleaved:
    """Lookups, generations that take several turns of the loop, and bumps, by many tasks at once."""
    found, world = Interleaved(), [0] * _TAGS
    with tempfile.TemporaryDirectory() as directory:
        cache = await SemanticCache.open(
            Path(directory) / "cache.db", embedder=_Wordings(), policies=_CATEGORIES, settings=_SETTINGS,
            rng=random.Random(seed),
        )  # fmt: skip

        async def work(rng: random.Random) -> None:
            while found.operations < operations:
                found.operations += 1
                tag = rng.randrange(_TAGS)
                if rng.random() < 0.02:
                    world[tag] += 1  # the table changes, and its tag with it
                    found.bumps += 1
                    await cache.bump(f"tag{tag}", "t")
                    continue
                number = tag + _TAGS * rng.randrange(_QUESTIONS // _TAGS)
                question = f"{number}/{rng.randrange(4)}"
                at_least = world[tag]
                outcome = await cache.lookup(_request(question, f"tag{tag}"))
                if isinstance(outcome, Hit):
                    found.hits += 1
                    answered, version = map(int, str(outcome.value).split())
                    assert answered == number, "another question's answer: the vectors are too close"
                    found.stale += version < at_least
                elif isinstance(outcome, Miss):
                    read = world[tag]
                    for _ in range(rng.randrange(4)):
                        await asyncio.sleep(0)
                    await cache.store(outcome.ticket, Answer(f"{number} {read}"))

        await asyncio.gather(*(work(random.Random(f"{seed}/{worker}")) for worker in range(_WORKERS)))
        await cache.close()
    return found


async def write_until_killed(directory: Path, seed: int) -> None:
    """Keep answers and bump tags, and tell of each what is committed."""
    cache = await SemanticCache.open(
        directory / "cache.db", embedder=_Wordings(), policies=_CATEGORIES, settings=_SETTINGS, rng=random.Random(seed)
    )

    async def work(worker: int) -> None:
        for i in itertools.count():
            question, tagged = f"{worker * 10**6 + i}/{seed}", i % 5 == 0
            outcome = await cache.lookup(_request(question, f"tag{worker}" if tagged else None))
            if isinstance(outcome, Miss):
                kept = await cache.store(outcome.ticket, Answer({"question": question, "pad": "x" * 800}))
                if isinstance(kept, Stored):
                    print("tagged" if tagged else "kept", worker, question, flush=True)
            if i % 60 == 59:
                print("bumping", worker, "-", flush=True)
                await cache.bump(f"tag{worker}", "t")
                print("bumped", worker, "-", flush=True)

    await asyncio.gather(*(work(w) for w in range(4)))


@dataclass(slots=True)
class Survived:
    """`promised` entries were told to be kept; `lost` of them are gone, `broken` served otherwise than they were."""

    kills: int = 0
    promised: int = 0
    lost: int = 0
    broken: int = 0
    stale: int = 0


async def kill_and_look(kills: int, seed: int) -> Survived:
    """Kill the writing process at random moments, each time on the database that the last one left, and look."""
    found, rng = Survived(), random.Random(seed)
    with tempfile.TemporaryDirectory() as directory:
        promised: dict[str, bool] = {}
        stale: set[str] = set()
        for number in range(kills):
            lines = _run_and_kill(Path(directory), seed * 1000 + number, rng.uniform(0.05, 1.2))
            found.kills += 1
            tagged: dict[str, list[str]] = {}
            for kind, worker, question in (line.split() for line in lines if len(line.split()) == 3):
                if kind == "kept":
                    promised[question] = True
                elif kind == "tagged":
                    tagged.setdefault(worker, []).append(question)
                elif kind == "bumped":
                    stale.update(tagged.pop(worker, ()))
            cache = await SemanticCache.open(
                Path(directory) / "cache.db", embedder=_Wordings(), policies=_CATEGORIES, settings=_SETTINGS
            )
            for question in promised:
                await _look(cache, question, found)
            for question in stale:
                worker = int(question.partition("/")[0]) // 10**6
                outcome = await cache.lookup(_request(question, f"tag{worker}"))
                found.stale += isinstance(outcome, Hit) and outcome.value["question"] == question  # type: ignore[call-overload,index]
                if isinstance(outcome, Miss):
                    cache.abandon(outcome.ticket)
            await cache.close()
        found.promised = len(promised)
    return found


async def _look(cache: SemanticCache, question: str, found: Survived) -> None:
    outcome = await cache.lookup(_request(question))
    if not isinstance(outcome, Hit):
        found.lost += 1
        if isinstance(outcome, Miss):
            cache.abandon(outcome.ticket)
    elif outcome.value != {"question": question, "pad": "x" * 800}:
        found.broken += 1


def _run_and_kill(directory: Path, seed: int, after_s: float) -> list[str]:
    command = [sys.executable, "-m", "benchmarks.cache_durability", str(directory), str(seed)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = [process.stdout.readline()]  # it has begun
    killed_at = time.monotonic() + after_s
    while time.monotonic() < killed_at:
        lines.append(process.stdout.readline())
    process.kill()
    lines += process.stdout.readlines()
    process.wait()
    return [line for line in lines if line.endswith("\n")]


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        asyncio.run(write_until_killed(Path(sys.argv[1]), int(sys.argv[2])))
