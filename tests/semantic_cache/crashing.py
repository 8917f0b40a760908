"""A process that stores answers, bumps tags and reports what was committed, until it is killed.

Run as `python crashing.py DIRECTORY`; prints one line for each thing that is promised to survive.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from pathlib import Path

from semantic_cache import Answer, CacheSettings, Limits, Miss, SemanticCache, Stored
from tests.semantic_cache.doubles import ask, policies


async def main(directory: Path) -> None:
    settings = CacheSettings(insert_burst=10**9, limits=Limits(entries=10**5))
    cache = await SemanticCache.open(directory / "cache.db", policies=policies(), settings=settings)

    async def work(worker: int) -> None:
        for i in itertools.count():
            question = f"{worker}/{i}"
            tags = {f"tag{worker}": ""} if i % 5 == 0 else {}
            outcome = await cache.lookup(ask(question, tags=tags))
            if not isinstance(outcome, Miss):
                continue  # kept by an earlier run
            kept = await cache.store(outcome.ticket, Answer({"question": question, "pad": "x" * 500}))
            assert isinstance(kept, Stored)
            print("kept", question, bool(tags), flush=True)
            if i % 50 == 49:
                print("bumping", f"tag{worker}", flush=True)
                await cache.bump(f"tag{worker}")
                print("bumped", f"tag{worker}", flush=True)

    await asyncio.gather(*(work(w) for w in range(4)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
