from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from semantic_cache import CacheClosed, StoreError
from semantic_cache.clock import ManualClock
from semantic_cache.store import Store

ADD = "INSERT INTO meta VALUES (?, ?)"


async def opened(path: Path) -> Store:
    return await Store.open(path / "s.db", ManualClock())


async def rows(store: Store) -> dict[str, int]:
    return dict(await store.query("SELECT key, value FROM meta WHERE key != 'schema'"))  # type: ignore[arg-type]


async def test_what_was_awaited_is_there_after_reopening(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    await store.write([(ADD, ("a", 1)), (ADD, ("b", 2))], durable=True)
    assert await rows(store) == {"a": 1, "b": 2}
    await store.close()
    store = await opened(tmp_path)
    assert await rows(store) == {"a": 1, "b": 2}
    await store.close()


async def test_writes_made_together_share_a_transaction_and_keep_their_order(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    await asyncio.gather(*(store.write([("INSERT OR REPLACE INTO meta VALUES ('last', ?)", (i,))]) for i in range(100)))
    assert await rows(store) == {"last": 99}
    await store.close()


async def test_a_refused_write_leaves_nothing_behind_and_the_store_usable(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    with pytest.raises(StoreError, match="refused"):
        await store.write([(ADD, ("a", 1)), ("INSERT INTO nowhere VALUES (?)", (1,))])
    assert await rows(store) == {}
    await store.write([(ADD, ("b", 2))])
    assert await rows(store) == {"b": 2}
    with pytest.raises(StoreError, match="refused a read"):
        await store.query("SELECT * FROM nowhere")
    await store.close()


async def test_a_cancelled_writer_does_not_disturb_the_others(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    writes = [asyncio.create_task(store.write([(ADD, (f"k{i}", i))])) for i in range(5)]
    await asyncio.sleep(0)
    writes[2].cancel()
    await asyncio.gather(*writes, return_exceptions=True)
    assert set(await rows(store)) >= {"k0", "k1", "k3", "k4"}
    await store.close()


async def test_closing_finishes_what_is_being_written(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    write = asyncio.create_task(store.write([(ADD, ("a", 1))]))
    await asyncio.sleep(0)
    await store.close()
    await write
    with pytest.raises(CacheClosed):
        await store.write([])
    with pytest.raises(CacheClosed):
        await store.query("SELECT 1")
    store = await opened(tmp_path)
    assert await rows(store) == {"a": 1}
    await store.close()


async def test_other_databases_and_versions_are_refused_and_untouched(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "s.db") as other:
        other.execute("CREATE TABLE diary (day TEXT)")
    with pytest.raises(StoreError, match="diary"):
        await opened(tmp_path)
    (tmp_path / "s.db").unlink()
    store = await opened(tmp_path)
    await store.write([("UPDATE meta SET value = 99 WHERE key = 'schema'", ())])
    await store.close()
    with pytest.raises(StoreError, match="schema 99"):
        await opened(tmp_path)
